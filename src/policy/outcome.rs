//! What became of the entries of a strike.

/// What became of one entry. Only what Redis confirmed is an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Removed with its companions.
    Evicted,
    /// Left alone because the evidence had changed, nearly always by a ping in between.
    Spared,
    /// Not there any more.
    Gone,
    /// Left alone because something protects it (E9).
    Protected,
    /// Left whole, because something in the way would have stopped the script half-way.
    Blocked(Blocked),
    /// The command ran outside its window and did nothing.
    TooLate,
    /// The lease is another's, or less was left of an operator's release: nothing was done.
    Fenced,
    /// The reply was lost: evicted or not, the next survey tells.
    Unknown,
}

/// Why an entry was left whole: the label values of a metric and the keys of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocked {
    /// A key holds another type than the action on it needs, or a counter is no integer.
    WrongType,
    /// Our user may not run a command, or touch a key.
    Permission,
    /// Redis refuses writes, being out of memory.
    Oom,
    /// Redis refuses writes: a replica, or a master that lost its disk or its replicas.
    ReadOnly,
    /// The server does not know a command.
    Unsupported,
    /// Redis answered with another error.
    Other,
    /// A list holds more elements than `max_fanout` allows.
    Fanout,
    /// The stream of the audit record is of another type, or may not be written.
    Audit,
}

impl Blocked {
    /// Every reason, in the order of [`Self::index`].
    pub const ALL: [Self; 8] = [
        Self::WrongType,
        Self::Permission,
        Self::Oom,
        Self::ReadOnly,
        Self::Unsupported,
        Self::Other,
        Self::Fanout,
        Self::Audit,
    ];

    /// The name in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrongType => "wrong_type",
            Self::Permission => "permission",
            Self::Oom => "oom",
            Self::ReadOnly => "readonly",
            Self::Unsupported => "unsupported",
            Self::Other => "other",
            Self::Fanout => "fanout",
            Self::Audit => "audit",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Outcomes, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// [`Outcome::Evicted`]
    pub evicted: u64,
    /// [`Outcome::Spared`]
    pub spared: u64,
    /// [`Outcome::Gone`]
    pub gone: u64,
    /// [`Outcome::Protected`]
    pub protected: u64,
    /// [`Outcome::TooLate`]
    pub too_late: u64,
    /// [`Outcome::Fenced`]
    pub fenced: u64,
    /// [`Outcome::Unknown`]
    pub unknown: u64,
    /// [`Outcome::Blocked`], by [`Blocked::index`].
    pub blocked: [u64; Blocked::ALL.len()],
}

impl Outcomes {
    /// Counts one.
    pub fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Evicted => self.evicted += 1,
            Outcome::Spared => self.spared += 1,
            Outcome::Gone => self.gone += 1,
            Outcome::Protected => self.protected += 1,
            Outcome::TooLate => self.too_late += 1,
            Outcome::Fenced => self.fenced += 1,
            Outcome::Unknown => self.unknown += 1,
            Outcome::Blocked(why) => self.blocked[why.index()] += 1,
        }
    }

    /// Adds those of another strike.
    pub fn merge(&mut self, other: &Self) {
        self.evicted += other.evicted;
        self.spared += other.spared;
        self.gone += other.gone;
        self.protected += other.protected;
        self.too_late += other.too_late;
        self.fenced += other.fenced;
        self.unknown += other.unknown;
        for (mine, theirs) in self.blocked.iter_mut().zip(other.blocked) {
            *mine += theirs;
        }
    }

    /// Entries left whole, whatever the reason.
    pub fn blocked_total(&self) -> u64 {
        self.blocked.iter().sum()
    }
}

/// Where a notification goes: the label values of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// A channel, for whoever listens at that moment.
    Pubsub,
    /// A stream, for whoever reads it later.
    Stream,
    /// A sharded channel.
    Sharded,
    /// A webhook: handed over to it, or into its outbox.
    Webhook,
}

impl Sink {
    /// Each, in the order of [`Self::index`].
    pub const ALL: [Self; 4] = [Self::Pubsub, Self::Stream, Self::Sharded, Self::Webhook];

    /// The name in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pubsub => "pubsub",
            Self::Stream => "stream",
            Self::Sharded => "sharded",
            Self::Webhook => "webhook",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What the text of a notification for a webhook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON object.
    Json,
    /// Any bytes.
    Text,
}

impl Form {
    /// The name of the field that holds it in the outbox.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// A notification for a webhook, as the eviction script spelt it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// For which of the source's webhooks, counted from 0.
    pub hook: usize,
    /// What the text is.
    pub form: Form,
    /// The text.
    pub text: Vec<u8>,
}

/// Notifications of evicted entries, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// Attempted, failed ones too, by [`Sink::index`].
    pub attempted: [u64; Sink::ALL.len()],
    /// Failed although everything had been checked, by [`Sink::index`].
    pub failed: [u64; Sink::ALL.len()],
    /// Left out, because a value that their templates want is absent.
    pub skipped: u64,
    /// Of entries whose eviction is unknown, by [`Sink::index`]: the reply was lost, or what was to follow failed. Whether
    /// anybody heard of them is unknown too, and a webhook without an outbox did not.
    pub unknown: [u64; Sink::ALL.len()],
}

impl Notified {
    /// Adds those of another strike.
    pub fn merge(&mut self, other: &Self) {
        let sum = |mine: &mut [u64], theirs: &[u64]| mine.iter_mut().zip(theirs).for_each(|(mine, more)| *mine += more);
        sum(&mut self.attempted, &other.attempted);
        sum(&mut self.failed, &other.failed);
        sum(&mut self.unknown, &other.unknown);
        self.skipped += other.skipped;
    }

    /// Those that Redis took; those for webhooks that were handed over.
    pub fn sent(&self) -> u64 {
        self.attempted.iter().sum::<u64>() - self.failed_total()
    }

    /// Those of which nobody knows, whatever the sink.
    pub fn unknown_total(&self) -> u64 {
        self.unknown.iter().sum()
    }

    /// Those that failed, whatever the sink.
    pub fn failed_total(&self) -> u64 {
        self.failed.iter().sum()
    }
}
