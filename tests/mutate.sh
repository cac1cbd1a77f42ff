#!/usr/bin/env bash
# Breaks the rule on purpose, one condition at a time, and sees that the test that stands for it fails.
#
#   ./tests/mutate.sh            all of them, some minutes
#   ./tests/mutate.sh silence    those whose name contains the word
#
# Works on a copy; the tree is not touched. PRESENCE_REAPER_TEST_VALKEY is not needed.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${MUTATE_TARGET_DIR:-$(realpath -m "${CARGO_TARGET_DIR:-target}")/mutate}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r Cargo.toml Cargo.lock src tests reaper.toml.example "$copy"
cp -r README.md docs deploy "$copy" 2>/dev/null || true

# Name @ test that must fail @ file @ what sed does to it [ @ file @ what sed does to it ]
mutations() {
  cat <<'M'
E1 any time is plausible@p4_what_cannot_be_read@policy/ping.rs@s/^(pub const PLAUSIBLE_FROM: Timestamp = ).*/\1Timestamp::from_millis(1);/
E1 the future is fresh@g10_entries_from_the_future@policy/staleness.rs@s/if at > now.plus\(FUTURE_TOLERANCE\)/if false/
E2 the late are stale@g3_nobody_goes_before@policy/rule.rs@s/(Freshness::Fresh \| Freshness::Late => )return Err\(Refusal::Live\),/\1{}/@policy/watch.rs@s/let due = stale_at.max\(/let _ = stale_at; let due = std::convert::identity(/
E3 one look is enough@g4_a_hub_whose_clock@policy/rule.rs@s/if now.mono < watched.confirmed/if false/@policy/watch.rs@s/let due = stale_at.max\(.*/let due = stale_at;/
E3 any mark will do@g4_a_hub_whose_clock@policy/rule.rs@s/watched.mark == mark/true/@policy/watch.rs@s/if known.mark == candidate.mark/if true/
E4 no grace after a break@g5_at_first_contact@policy/continuity.rs@s/self.grace.filter\(.grace. now < grace.until\)/self.grace.filter(|_| now.since_start().is_zero())/
E4 no time to reconnect@p2_a_restart@policy/continuity.rs@s/self.reconnect.filter\(.reconnect. now < reconnect.until\)/self.reconnect.filter(|_| now.since_start().is_zero())/
E4 neither restart nor rollback is a break@p2_a_rollback@policy/continuity.rs@s/if identity.run_id != known.run_id/if false/@policy/continuity.rs@s/else if identity.replication_id != known.replication_id/else if false/@policy/continuity.rs@s/if found < known =>/if found < known \&\& false =>/@policy/continuity.rs@s/self.canary.filter\(.known. value <= \*known\)/self.canary.filter(|_| false)/
E4 a failover is no break@g5_a_failover@policy/continuity.rs@s/else if identity.replication_id != known.replication_id/else if false/
E4 out of sight is no break@g5_a_blind_spell@policy/continuity.rs@s/if lost > self.timing/if false \&\& lost > self.timing/@policy/continuity.rs@s/if beyond\(gap\) > self.timing/if false \&\& beyond(gap) > self.timing/
E4 a short gap is a break@g5_a_short_stall@policy/continuity.rs@s/gap.saturating_sub\(planned\)/gap/
E4 the end of a silence is no break@p3_writers_that_return@policy/ledger.rs@s/self.continuity.silence_ended\(ended\);//
E4 our own gap is no break@g5_a_reaper_that_slept@policy/continuity.rs@s/if beyond\(gap\) > self.timing/if false \&\& beyond(gap) > self.timing/
E4 a canary may go back@g5_a_canary_that_goes@policy/continuity.rs@s/\(Some\(_\), None\) => self.suspect\(Break::StateLost\)/(Some(_), None) => {}/@policy/continuity.rs@s/if found < known =>/if found < known \&\& false =>/@policy/continuity.rs@s/self.canary.filter\(.known. value <= \*known\)/self.canary.filter(|_| false)/
E4 a refused canary holds nothing@g11_a_refused_canary@policy/continuity.rs@s/self.refused = Some\(why.into\(\)\)/let _ = why.into()/@policy/continuity.rs@s/if rose \&\&/if false \&\& rose \&\&/
E4 the end of refused writes is no break@g11_a_refused_canary@policy/continuity.rs@s/if self.refused.take\(\).is_some\(\) \{/if self.refused.take().is_some() \&\& false {/@policy/continuity.rs@s/if rose \&\&/if false \&\& rose \&\&/
E4 refused writes of others do not count@g11_refused_writes_of_others@policy/continuity.rs@s/if rose \&\&/if false \&\& rose \&\&/
E4 a strike does not ask who is there@g5_a_look_sees@store/mod.rs@s/^        unchanged\?;/        let _ = unchanged;/
warm a restart begins anew@g5_a_restart_of_the_reaper@policy/ledger.rs@s/let Some\(earlier\) = earlier else/let Some(earlier) = earlier.filter(|_| false) else/
warm graces are forgotten@g5_a_crash_loop@policy/continuity.rs@s/if let Some\(\(before, until\)\) = earlier.reconnect/if let Some((before, until)) = earlier.reconnect.filter(|_| false)/
warm a suspension is forgotten@g12_a_suspension_goes_on@policy/guard.rs@s/self.regret.recall\(earlier.suspension, now\);//
warm a silence begins anew@g6_a_silence_goes_on@policy/guard.rs@s/before: if unbroken \{ lasted \}/before: if false { lasted }/
warm any age will do@g5_a_cold_start@policy/ledger.rs@s/\(Run::Daemon, _\) => true/(Run::Daemon, _) => false/
warm any settings will do@g5_other_settings@policy/ledger.rs@s/if earlier.redefined/if false/
warm any process will do@g5_a_rollback_can_not@policy/ledger.rs@s/recall_look\(earlier.identity.clone\(\)/recall_look(identity.clone()/
once any age will do@g5_a_single_run_right@policy/ledger.rs@s/if let Run::Single\(_\) = self.run/if let (Run::Single(_), true) = (self.run, false)/
once a restart is not seen@g5_a_single_run_sees@policy/ledger.rs@s/recall_look\(earlier.identity.clone\(\)/recall_look(identity.clone()/
once refused writes are not seen@g11_a_single_run_sees@policy/continuity.rs@s/self.refusals = earlier.refusals/self.refusals = None/
E3 a clock behind is believed@on_a_bad_day@policy/watch.rs@s/age\(&candidate, now\) > honest/false/
E4 short outages are forgotten@on_a_bad_day@policy/continuity.rs@s/if let Some\(\(_, last\)\) = self.last.as_ref\(\).filter\(._. self.missed\)/if let Some((_, last)) = self.last.as_ref().filter(|_| false)/
E4 a grace lasts a heartbeat@on_a_bad_day@policy/continuity.rs@s/let until = at.mono.plus\(self.timing.threshold\)/let until = at.mono.plus(self.timing.heartbeat_interval)/
E4 no time to reconnect, simulated@on_a_bad_day@policy/continuity.rs@s/self.reconnect.filter\(.reconnect. now < reconnect.until\)/self.reconnect.filter(|_| now.since_start().is_zero())/
E5 a silence that pings is released@on_a_bad_day@policy/guard.rs@s/if newest > known.newest/if false/
E5 a silence is small when few are left@on_a_bad_day@policy/guard.rs@s/self.recent.is_none_or\(.*/true {/
E3 any mark will do, in a random history@whatever_happens@policy/rule.rs@s/watched.mark == mark/true/@policy/watch.rs@s/if known.mark == candidate.mark/if true/
E5 no mass, in a random history@whatever_happens@policy/guard.rs@s/, self.mass\(now.mono\)\]/]/
E5 no silence, in a random history@whatever_happens@policy/guard.rs@s/\[self.silent\(now\), self.interval/[self.interval/
E5 a silence never ends@on_a_bad_day@policy/guard.rs@s/now.mono >= at\)/false)/
E5 no silence@p3_when_all_writers_stop@policy/guard.rs@s/\[self.silent\(now\), self.interval/[self.interval/
E5 a silence is released at once@p3_a_silence_is_released@policy/guard.rs@s/release.max\(self.timing.threshold \* 2\)/release/
E5 a silence is never small@p3_a_small_source@policy/guard.rs@s/const SMALL_SOURCE: u64 = 10/const SMALL_SOURCE: u64 = 0/
E5 a silence found late is small@p3_a_silence_found_late@policy/guard.rs@s/self.recent.unwrap_or\(survey.live\(\) \+ survey.stale \+ survey.protected\)/self.recent.unwrap_or(0)/
E5 a silence after an outage is small@p3_a_silence_after_an_outage@policy/guard.rs@s/let recent = self.recent.unwrap_or.*/let recent = survey.live();/
E5 a clock ahead hides a silence@g6_a_dead_entry@policy/staleness.rs@s/now.plus\(self.threshold.saturating_sub.*/now.plus(FUTURE_TOLERANCE)/
E5 no mass@g7_two_hubs@policy/guard.rs@s/, self.mass\(now.mono\)\]/]/
E5 a mass is not latched@g7_two_hubs@policy/guard.rs@s/self.mass_until = Some\(now.plus\(self.timing.threshold \* 2\)\)/self.mass_until = Some(now.plus(self.timing.heartbeat_interval))/
E5 a third is a mass@g7_one_hub@policy/guard.rs@s/= \(55, 100\)/= (30, 100)/
E5 six are a mass@g7_six_clients@policy/guard.rs@s/MASS_MIN: u64 = 10/MASS_MIN: u64 = 1/
E1 a source that does not fit evicts@p4_a_source_that_does@policy/rule.rs@s/.or_else\(.. facts.guard.misfit\(\)\)//
E5 no brake@g_hold_nothing_goes@policy/order.rs@s/let brake = self.brake.as_ref\(\)/let brake = self.brake.as_ref().filter(|_| false)/
E5 a lost brake is let go@g_hold_a_brake_that_redis_lost@reaper/orders.rs@s/self.replace\(read, true\)/self.replace(read, false)/
E5 a release is not counted@a_release_is_good_for@store/evict.lua@s/redis.call\('HINCRBY', KEYS.release., 'left', -going\)//
E4 a release shortens a grace@g5_no_release@policy/rule.rs@s/if let Some\(until\) = facts.continuity.keeps\(watched.last_ping, now.mono\)/if let Some(until) = facts.continuity.keeps(watched.last_ping, now.mono).filter(|_| facts.guard.orders().release.is_none())/
E5 a release lifts nothing@g6_a_silent_source@policy/guard.rs@s/ \&\& !self.lifted.silent//
E5 no interval@interval_set_ten_times@policy/guard.rs@s/self.silent\(now\), self.interval\(\), /self.silent(now), /
E5 an interval is not seen by two looks@interval_is_seen@policy/interval.rs@s/const TRIPS_MIN: usize = 2/const TRIPS_MIN: usize = 200/
E5 an interval never ends@interval_ends@policy/interval.rs@s/const ENDS: .usize, usize. = \(10, 100\)/const ENDS: (usize, usize) = (0, 100)/@policy/interval.rs@s/ \&\& long > 0 \&\& share/ \&\& share/@policy/interval.rs@s/\.clamp\(1, long\)/.max(1)/
E5 no pulse@p3_a_ghost_stays@policy/pulse.rs@s/self.doubt_that\(doubt\);/let _ = doubt;/
E5 a ping after a silence is not heard in between@g6_a_ping_that_is_seen@policy/guard.rs@s/self.pulse.doubt_that\(Doubt::SpokeAgain\)/let _ = Doubt::SpokeAgain/
E5 a survey every heartbeat@surveys_are_rare@policy/staleness.rs@s/room.min\(most\).max\(least\)/let _ = (room, most, least); self.heartbeat_interval/
E5 no regret@g12_evicted_clients@policy/rule.rs@s/\.or_else\(.. facts.guard.suspended\(now\)\)//
E5 who follows forgets a suspension@g12_who_follows@policy/guard.rs@s/self.regret.follow\(leader.suspension, now\);//
E5 a new session is regretted@g12_clients_that_return_later@policy/regret.rs@s/heartbeat_interval \* 2/heartbeat_interval * 7/
E5 no first slice@g7_after_a_mass@policy/guard.rs@s/slice.map_or\(u64::MAX, .slice. .*/slice.map_or(u64::MAX, |_| u64::MAX)/
E5 who comes back stops nothing@g7_after_a_mass@policy/guard.rs@s/if self.slice.is_some_and\(.slice. slice.until.is_some\(\)\)/if false/
E6 a group has no grace@e6_a_hub_that_comes_back@policy/group.rs@s/known.keeps_until.max\(silence\)/silence/
E6 a silent group is a mass@e6_a_hub_that_is_gone@policy/group.rs@s/if silent \* whole < live \* share/if false/
E6 a group is not felt by the pulse@e6_the_pulse_feels@policy/pulse.rs@s/self.doubt_of\(all\).or\(of_group\)/self.doubt_of(all)/
E5 surveys put the pulse off@surveys_one_after_the_other@policy/ledger.rs@s/self.pulsed.get_or_insert\(ended.mono\)/self.pulsed = Some(ended.mono)/
E6 no extra@e6_a_silent_hub@policy/group.rs@s/self.timing.threshold \+ self.extra/self.timing.threshold/
E5 a witness releases nothing@p3_a_witness_that_is_fresh@policy/guard.rs@s/return Some\(fresh_since\?.max\(silence.since\).plus\(self.timing.threshold\)\)/let _ = fresh_since/
E5 a stale witness releases@p3_a_witness_that_is_not_fresh@policy/guard.rs@s/let fresh = shows.is_some_and\(fresh\)/let fresh = shows.is_some_and(fresh) || true/
load nothing pauses@load_@reaper.rs@s/if let Some\(pause\) = self.load.pause\(\)/if let (Some(pause), true) = (self.load.pause(), false)/@reaper.rs@s/if self.load.pause\(\).is_some\(\)/if false/
E7 no compare@p1_a_ping_between@store/evict.lua@s/= tonumber\(found\) == tonumber\(expected\)/= true/
E7 no check before the deed@p5_an_entry_goes_whole@store/evict.lua@s/or kind ~= 'none' and need and kind ~= need/or false/
E7 refused writes do not refuse us@g11_a_server_that_refuses@store/evict.rs@s/concat!\("#!lua.n", include_str/concat!("", include_str/
E7 the lease is not compared@g15_a_strike_without@store/evict.lua@s/redis.call\('GET', KEYS\[lease\]\) ~= take\(\)/take() == ''/
E7 anybody leads@g15_a_strike_without@store/lease.rs@s/self.locked\(\).until.is_some_and\(.until. self.clock.now\(\) < until\)/true/
E7 a lease is never given back@g15_a_leader_that_stops@store/lease.rs@s/let held = self.locked\(\).until.take\(\).is_some\(\);/let held = false;/
E7 a single run takes no lease@g15_a_single_run@oneshot.rs@s/let Some\(lease\) = reaper.store\(\).lease\(\).cloned\(\) else/let Some(lease) = reaper.store().lease().cloned().filter(|_| false) else/
E8 who takes over begins the pace anew@g15_a_handover@reaper.rs@s/self.ledger.took_over\(self.clock.now\(\)\);//
acl a small room is not read whole@rooms_are_cleaned_and_told@store/rights.rs@s/, ZRANGE([],])/\1/
acl a stream is not asked for its type@rooms_are_cleaned_and_told@store/rights.rs@s/\[TYPE, XADD\]/[XADD]/
acl what is left is not counted@rooms_are_cleaned_and_told@store/rights.rs@s/counts\)\.then_some\(count\)/counts).then_some(count).filter(|_| false)/
acl any channel will do@it_grants_what_is_needed@store/rights/acl.rs@s/channels.insert\(0, b"resetchannels".*//
sample the first room alone@rooms_are_sampled_one_by_one@store/sample.rs@s/MAX_SAMPLED \/ parts.max\(1\)/MAX_SAMPLED.max(parts)/
notify without a check@what_the_user_may_not_tell@store/evict.lua@s/entry.later, entry.notices, \{ entry.count \} \}/entry.later }/
notify whatever a stream is@a_stream_of_another_type@store/evict.lua@s/, XADD = 'stream'//
notify of the spared@each_eviction_is_announced@store/evict.lua@s/if reply\[i \+ 1\] == EVICTED and/if/
notify what is left at first@what_is_left_is_counted@store/evict.lua@s/local remaining = entry.count and .*/remaining = remaining or redis.pcall(unpack(entry.count.words))/
notify of what was not compared@what_is_told_is_evidence@store/own.rs@s/named.chain\(source.notify.iter\(\).flat_map\(Notification::refs\)\)/named/
notify those of a lost reply are not counted@g18_a_lost_reply@store/evict.rs@s/if outcome == Outcome::Unknown \{/if false \&\& outcome == Outcome::Unknown {/
notify beside a companion@a_stream_is_parted_from@store/evict.rs@s/self.streams.extend.*//
notify and hide failures@a_notification_that_fails@store/evict.rs@s/u64::from\(struck.failed.contains.*/0;/
webhook a large outbox is read whole@an_outbox_is_read_in_bounds@store/outbox.lua@s/if room < 0 and #found > 0 then/if false then/
webhook one that is refused keeps back the others@what_is_refused_for_what_it_says@webhook/post.rs@s/400 \| 409 \| 413 \| 422 => failed\(Failure::Unacceptable/422 => failed(Failure::Refused/
webhook what is set aside is told no more@what_is_refused_for_what_it_says@webhook/courier.rs@s/self.try_again\(kept, sender\).await;//
webhook an old CA is believed@files_are_read_anew@webhook/post.rs@s/ca_file.is_none\(\).then\(.. /Some(/
webhook a dead address eats the time@a_dead_address_leaves@store/tcp.rs@s/if waiting.len\(\) > 0 => continue/if false => continue/
webhook a read under way is an empty outbox@once_says_what_it_did_not@webhook.rs@s/ \&\& !self.looking//
webhook what is left is not said@what_is_left_in_an_outbox@webhook.rs@s/\(!is_emptied\).then/false.then/
webhook who stops tells nothing@a_daemon_that_stops@webhook/courier.rs@s/tokio::time::sleep\(patience\).await/let _ = patience/
acl what is left may not be asked for@what_is_left_in_an_outbox@store/rights.rs@s/GET, SET, XLEN\]/GET, SET]/
E8 no rate@g8_no_second@policy/pace.rs@s/let limit = self.per_second.map_or\(u64::MAX, u64::from\)/let limit = self.per_second.map_or(u64::MAX, |_| u64::MAX)/
E8 no share@g8_no_heartbeat@policy/pace.rs@s/SMALL.max\(population \/ SHARE\)/u64::MAX.max(SMALL.max(population \/ SHARE))/
E8 nothing is reserved@the_maximum_is_shared@policy/pace.rs@s/\.saturating_sub\(self.reserved\)/.saturating_sub(0)/
lookup an absence needs nobody's life@missing_with_a_typo_in_the_key@policy/survey.rs@s/self.vouched = all != 0.*/self.vouched = true;/
lookup any of them vouches@missing_is_vouched_for@policy/survey.rs@s/self.gave & all == all/self.gave \& all != 0/
lookup an absent field is an absent key@missing_is_a_key@store/own.rs@s/ if of_one => self.exists\(key, Looked::Absent/ if of_one => self.exists(key, Looked::Missing/
lookup an absence is stale at once@missing_goes_in_the_first@policy/timeless.rs@s/now.since\(self.since\) \+ self.before/now.since(self.since) + self.before + Duration::from_secs(9_999)/
lookup a look too late counts@a_look_too_late@policy/timeless.rs@s/now.mono.since\(seen.looked\) > longest_gap/now.mono.since(seen.looked) > longest_gap * 9_999/
lookup the end of a silence releases absences@e5_the_end_of_a_silence@policy/rule.rs@s/ \|\| facts.guard.has_been_silent\(\)//
lookup no run goes on where another left@missing_goes_in_the_first@reaper.rs@s/self.store.recall\(absences, passed, now.mono\);/let _ = (absences, passed);/
lookup any clock measures between runs@g5_missing_is_not_aged_by_a_clock_that_moves_between@policy/ledger.rs@s/let passed = self.on_our_host\(earlier, now\)\?;/let passed = since(earlier.looked, now);/@policy/ledger.rs@s/back.or_else\(against_host\)/let _ = against_host; back/@policy/ledger.rs@s/if gap <= self.timing.look_interval\(\) \* WARM/if true/
lookup a clock that moved between runs is no break@missing_counts_between@policy/ledger.rs@s/back.or_else\(against_host\)/let _ = against_host; back/
lookup another process may have been missing it@missing_counts_between@policy/ledger.rs@s/ \&\& earlier.identity == \*identity$//
lookup a break between runs ages on@g11_missing_begins_anew@reaper.rs@s/self.store.broke\(self.clock.now\(\)\);//
lookup an evicted entry leaves its absence@missing_goes_in_the_first@reaper.rs@s/^                self.store.forget\(\&id\);//
lookup what is due is left to the next run@missing_that_was_due@reaper.rs@s/self.keep_absences\(Some\(self.settings.timing.threshold\), report\)/self.keep_absences(None, report)/
lookup one that names another key is as missing@missing_begins_anew_where_an_entry@store/own.rs@s/Some\(self.fill\(lookup.place.key\(\)\)\)/Some(self.fill(lookup.place.key()).filter(|_| false))/
lookup a run leaves all it saw@missing_in_great_number@policy/timeless.rs@s/ages.truncate\(MOST_ABSENCES\);//
lookup a mass is not seen between runs@who_is_not_among@policy/timeless.rs@s/None if first => seen.lived = whole/None if first => seen.lived = false/
lookup what stands elsewhere is no evidence@p1_a_ping_that_lands_elsewhere@store/evict.lua@s/in ipairs\(entry.elsewhere\) do/in ipairs({}) do/
lookup where is not asked@where_keeps@store/own.rs@s/Filled::Known\(holds\) => holds,/Filled::Known(_) => true,/
idle a key is as old as Redis says@idle_keys_are_never_older@store/own.rs@s/earliest.plus\(IDLE_IS_COARSE\)/earliest/
E6 whose an entry is does not show later@e6_whose_an_entry@policy/watch.rs@s/candidate.group.or_else\(.*/known.group.clone();/
E9 what can not be read does not protect@e9_what_can_not_be_read@store/condition.rs@s/unreadable_holds: true/unreadable_holds: false/
E9 own JSON that can not be read does not protect@e9_what_can_not_be_read@store/condition.rs@s/text.is_some_and\(.text. \{/text.filter(|_| false).is_some_and(|text| {/
lookup a let that can not be read is absent@what_a_let_can_not_read@store/own.rs@s/(Looked::NotJson \| Looked::There) => return None/\1 => {}/
do on_evict overwrites a time@on_evict_leaves_a_time@store/own.rs@s/self.overwrites_its_time\(\) \|\| //
idle a use in between is not seen@idle_keys_go@store/evict.lua@s/found >= least/true/
E9 not asked in the script@e9_what_becomes_protected@store/evict.lua@s/^  if protection then/  if false then/
E9 a fault is no doubt@e9_a_condition_on_a_key_of_another_type@store/evict.lua@s/doubt = doubt or state/doubt = nil/
E9 not asked at the re-read@e9_the_protected_stay@store/mod.rs@s/self.ask_protection\(&live.*/_ = \&mut looked;/
E9 not asked by the survey@e9_the_protected_stay@store/mod.rs@s/let doubtful = stale.filter\(.*/let doubtful = stale.filter(|_| false \&\& leaves);/
E9 an index counts the protected as stale@e9_an_index@store/zset.rs@s/let doubtful = watch/let doubtful = false \&\& watch/
E9 what can't be filled protects nothing@e9_a_condition_that_can_not@store/condition.rs@s/Filled::Known\(true\) \| Filled::Unfillable =>/Filled::Unfillable => {}\n                Filled::Known(true) =>/
E9 own fields are not read@e9_an_entrys_own@store/own.rs@s/add_fields\(&mut fields, source.unless.*/add_fields(\&mut fields, std::iter::empty());/
E9 a single run waits for the protected@e9_nobody_evicts@policy/watch.rs@s/stale_before \|\| known.protected/stale_before/
E9 the protected ask for surveys@e9_what_is_protected_asks@policy/watch.rs@s/is_some_and\(.known. !known.protected\)/is_some()/
E9 the protected seem to ping slowly@e9_what_was_protected@policy/ledger.rs@s/self.guard.protected\(id\);//@policy/ledger.rs@s/candidates.iter\(\).filter\(.one. one.protected\).*//
E9 the protected count in every share@e9_a_share@policy/ledger.rs@s/survey.unprotected\(\)/survey.population()/
E9 the protected lose their group@e9_what_is_protected_keeps@policy/survey.rs@s/protected: true, group \}/protected: true, group: group.and(None) }/
E9 JSON may change behind the look@e9_each_kind@store/evict.lua@s/ ~= condition.with and SPARED/ == false/
acl a condition is not asked for@e9_nobody_evicts@store/rights.rs@s/flat_map\(.own. asking\(&source.unless, &own\)\)/flat_map(|own| asking([], \&own))/
g9 a part of the rooms will do@more_rooms_than_allowed_are_no_survey@store/containers.rs@s/found.len\(\) > most/false/
g13 a companion may stray@g13_an_id_that_leads_a_companion_to_another_room@store/own.rs@s/\*trespasses = /*trespasses = false \&\& /
p6 a shadow strikes@a_shadow_counts_once@reaper.rs@s/if self.settings.mode == Mode::DryRun/if false/
p7 it never strikes@p7_a_dead_entry@reaper.rs@s/(self.ledger.decide_source\(now\)).ok\(\)\?;/\1.err()?;/
g18 a lost reply is an eviction@g18_a_lost_reply@store/evict.rs@s/if ran \{ Outcome::Unknown \}/if ran { Outcome::Evicted }/
once a young server will do@g5_a_young_server@policy/continuity.rs@s/timing.threshold.saturating_sub\(server_uptime\)/Duration::ZERO.saturating_sub(server_uptime)/
do a condition sees the entry that goes@if_never_sees_the_entry@store/own.rs@s/first.iter\(\).rev\(\).find_map/first.iter().take(0).rev().find_map/
do lists are not compared@a_list_that_changed@store/evict.lua@s/return missing == 0/return true/@store/evict.lua@s/    if not known\[item\] then/    if false then/
do any number of elements@max_fanout_is_exact@store/deeds.rs@s/elements.len\(\) > self.max_fanout/false/@store/deeds.rs@s/Some\(size\) if size > max/Some(size) if size > usize::MAX - 1/@store/deeds.rs@s/items.len\(\) > max/false/
do a counter of any text@decr_ref_counts_down@store/evict.lua@s/found and not integer\(found\) and WRONG_TYPE/nil/
do a hash may come in anybody's way@a_hash_that_comes_into_being@store/evict.lua@s/if kind == 'none' and clashes\(key, step.verb\) or kind/if kind/
do what stands under an if needs no right@an_action_that_our_user_may_not@store/evict.lua@s/entry.deeds, entry.later, entry.notices/entry.deeds, entry.notices/
do json is no evidence@if_json_is_evidence@store/evict.rs@s/self.unless.questions.iter\(\).chain\(read\)/self.unless.questions.iter().chain(read.take(0))/
do what was left behind is stale again@on_evict@store/own.rs@s/Some\(value\) == self.said/false \&\& Some(value) == self.said/@store/mod.rs@s/is_ok_and\(.left. left <= time.as_millis/is_ok_and(|left| left > u128::MAX - 1 \&\& left <= time.as_millis/
reload everything goes on@what_decides_otherwise@reaper.rs@s/if !self.decides_like\(&other\)/if false/
reload everything begins anew@a_reload_goes_on@reaper.rs@s/if !self.decides_like\(&other\)/if true/
reload the pace begins anew@another_rate_forgives@policy/pace.rs@s/^        self.rate.limit\(per_second\);/        self.rate = Rate::new(per_second);/
reload holds are forgotten@no_reload_ends_a_hold@policy/ledger.rs@s/self.guard.recall\(&other.guard.remember\(now\), false, now\);//
reload what is about to break is forgotten@no_reload_ends_a_hold@policy/continuity.rs@s/canary: None, refused: None, ..other.clone\(\) \}/canary: None, refused: None, pending: Vec::new(), ..other.clone() }/
reload a first contact is none@no_reload_ends_a_hold@policy/continuity.rs@s/after.suspect\(Break::FirstContact\);//
reload graces shrink@another_break_shortens@policy/continuity.rs@s/.max\(running.unwrap_or_default\(\)\)/.max(running.filter(|_| false).unwrap_or_default())/
reload a broken file is half taken over@a_broken_file_keeps@metrics.rs@s/self.reload_succeeded.set\(0.0\);//
watchdog it is fed in any case@the_watchdog_is_fed@service.rs@s/supervisor.alive\(\);//
metrics an operator's hold is counted each time@an_operators_hold_is_counted_once@metrics/source.rs@s/ \&\& !self.state.is_set\(State::Held.as_str\(\)\)//
metrics OpenMetrics whatever is asked for@open_metrics_are_for_those@http.rs@s/open > 0.0 \&\& open >= text/open >= 0.0 || open >= text/
metrics OpenMetrics without its end@open_metrics_say_the_same@metrics/openmetrics.rs@s/page.push_str\("# EOF.n"\);//
metrics of a source that was not read are zero@what_was_not_seen_is_no_zero@metrics/single_run.rs@s/survey.map_or\(f64::NAN, .*count as f64\)/count as f64/
metrics of a run are written over a link@a_file_that_can_not_be_written@output.rs@s/is_ok_and\(.there. !there.is_file\(\)\)/is_ok_and(|_| false)/
metrics of a run are for ourselves alone@an_audit_and_once_leave@output.rs@s/from_mode\(0o644\)/from_mode(0o600)/
kube ports of Services are warned of@variables_that_kubernetes@config/tree.rs@s/\|\| name.match_indices\("_PORT"\).*//
kube whatever ends in _PORT is a Service's@variables_that_only_look_like@config/tree.rs@s/ && value.contains\(":\/\/"\)//
kube a misspelt setting may be a Service's@variables_that_only_look_like@config/tree.rs@s/if name.contains\("__"\)/if false/
audit a record that fails keeps nobody@a_stream_of_another_type@store/evict.lua@s/      return AUDIT$/      break/@store/evict.lua@s/if fault_of\(redis.pcall\(unpack\(spell\(one, 0, outcome/if false and fault_of(redis.pcall(unpack(spell(one, 0, outcome/
audit nothing is recorded in the stream@killed_while_it_evicts_the_stream@store/evict.rs@s/self.number\(one.recorded\(\).iter\(\).len\(\)\);/self.number(0);/@store/evict.rs@s/if let Some\(notice\) = one.recorded\(\) \{/if let Some(notice) = one.recorded().filter(|_| false) {/
audit a lost reply has no line@of_a_lost_reply_the_file@store/evict.rs@s/^                if ran \{/                if ran \&\& false {/
audit a full disk pauses nothing@a_full_disk_pauses@audit.rs@s/Some\(trouble\) => format/Some(trouble) if false => format/@audit.rs@s/^            None if state.lines.len/            _ if state.lines.len/@audit.rs@s/^            None => return None,/            _ => return None,/
audit SIGHUP opens nothing@a_rotated_file_loses@audit.rs@s/desk.locked\(\).reopens = true;/desk.locked().reopens = false;/
audit a companion may reach the stream@no_companion_reaches@store/evict.rs@s/record.is_some_and\(.record. touched/record.filter(|_| false).is_some_and(|record| touched/
reload a kept suspension is forgotten@what_was_kept_holds_beside@policy/ledger.rs@s/return self.guard.follow\(&earlier.guards, then\);/return;/
reload a hold that redis lost is forgotten@an_operators_hold_that_redis_lost@reaper/hearing.rs@s/self.orders.saw\(&self.book.place\(\), written.revision\);/None::<u64>;/@reaper/hearing.rs@s/seen.is_some_and\(.seen. written.revision > seen\)/seen.is_none_or(|seen| written.revision > seen)/
reload evictions go unrecorded@nothing_goes_unrecorded@service.rs@s/if evicts \&\& config.audit.file.is_some\(\)/if false \&\& evicts/
M
}

# Prints how it went, and fails if the mutation lived.
try() {
  local name=$1 test=$2
  shift 2
  while [ $# -gt 0 ]; do
    local file="$copy/src/$1"
    cp "$file" "$copy/before"
    sed -Ei "$2" "$file"
    if cmp -s "$file" "$copy/before"; then
      printf '%-42s STALE: sed finds nothing in src/%s\n' "$name" "$1"
      return 1
    fi
    shift 2
  done
  (cd "$copy" && cargo build --quiet --locked 2>"$copy/log") || { printf '%-42s DOES NOT BUILD\n' "$name"; cat "$copy/log"; return 1; }
  local where=(--test it)
  grep -rqs "fn $test" "$copy/tests/it" || where=(--lib)
  if (cd "$copy" && env -u PRESENCE_REAPER_TEST_VALKEY cargo test --quiet --locked "${where[@]}" "$test" >"$copy/log" 2>&1); then
    printf '%-42s LIVES: %s passes\n' "$name" "$test"
    return 1
  fi
  printf '%-42s killed by %s\n' "$name" "$(sed -n 's/^test \(.*\) \.\.\. FAILED.*/\1/p; s/^    \(.*::.*\)$/\1/p' "$copy/log" | sort -u | paste -sd' ')"
}

lived=0
while IFS='@' read -r -a fields; do
  name=${fields[0]}
  if [[ "$name ${fields[1]}" != *"${1:-}"* ]]; then
    continue
  fi
  try "$name" "${fields[@]:1}" || lived=$((lived + 1))
  rm -rf "$copy/src" && cp -r src "$copy"
done < <(mutations)
printf '%s not killed\n' "$lived"
[ "$lived" -eq 0 ]
