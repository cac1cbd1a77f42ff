//! What our user may do, asked of the server without doing it.

use redis::Value;

use super::connect::{Link, Live};
use super::error::Error;
use super::reply;
use super::rights::Right;
use super::status::Purpose;

/// What a server said of a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// We have it.
    Granted,
    /// We lack it.
    Missing,
    /// The server knows no such command.
    Unknown,
    /// There is no way to ask that our user may go.
    NotAsked,
}

/// Stand where keys may differ. Two, so that a user who may touch only some of the keys is rarely taken for one who may
/// touch all; neither is a key of anybody.
const FILLINGS: [&[u8]; 2] = [b"presence-reaper-check", b"0presence-reaper-check"];

/// Asks for the user that runs it.
const ASK: &str = include_str!("ask.lua");

const DOING: &str = "asking what the reaper's user may do";

impl Link {
    /// Whether our user has these rights, in their order.
    ///
    /// From Redis 7 on a script can ask for the user that runs it. Before, a transaction that is thrown away tells: each
    /// command is refused or queued, and none is run. A user who may neither can still read to see whether it may.
    ///
    /// # Errors
    /// The server can't be reached, or answers with anything but yes and no.
    pub async fn permissions(&self, rights: &[Right]) -> Result<Vec<Answer>, Error> {
        let live = self.live().await?;
        let asking = Asking { link: self, live: &live, rights };
        let (answers, script_refused) = asking.by_script().await?;
        let mut answers = match answers {
            Some(answers) => answers,
            None => match asking.by_transaction().await? {
                Some(answers) => answers,
                None => asking.by_reading().await?,
            },
        };
        for (right, answer) in rights.iter().zip(&mut answers) {
            if script_refused && right.command() == "EVAL" {
                *answer = Answer::Missing;
            }
        }
        Ok(answers)
    }
}

/// A call, word by word.
type Call = Vec<Vec<u8>>;

struct Asking<'a> {
    link: &'a Link,
    live: &'a Live,
    rights: &'a [Right],
}

impl Asking<'_> {
    /// The answers, none where scripts can't ask or may not be run by us, and whether it was that.
    async fn by_script(&self) -> Result<(Option<Vec<Answer>>, bool), Error> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(ASK).arg(0);
        for call in self.calls() {
            eval.arg(call.len()).arg(call);
        }
        let mut commands = redis::pipe();
        commands.add_command(eval);
        let [reply] = self.link.exactly(DOING, self.ask(&commands).await?)?;
        match reply {
            Value::Nil => return Ok((None, false)),
            Value::ServerError(error) => return Ok((None, error.code() == "NOPERM")),
            _ => {}
        }
        let codes = reply::array(reply).and_then(|codes| codes.into_iter().map(reply::count).collect::<Result<_, _>>());
        let codes: Vec<u64> = codes.map_err(|unexpected| self.link.unexpected(DOING, unexpected))?;
        let answers = codes.into_iter().map(|code| match code {
            0 => Answer::Missing,
            1 => Answer::Granted,
            2 => Answer::Unknown,
            _ => Answer::NotAsked,
        });
        Ok((Some(self.whole(answers)), false))
    }

    /// None where our user may not begin a transaction.
    async fn by_transaction(&self) -> Result<Option<Vec<Answer>>, Error> {
        // By itself first: outside a transaction the commands would run.
        let mut begin = redis::pipe();
        begin.cmd("MULTI");
        let [begun] = self.link.exactly(DOING, self.ask(&begin).await?)?;
        if begun != Value::Okay {
            return Ok(None);
        }
        let mut commands = redis::pipe();
        for call in self.calls() {
            commands.add_command(command(&call));
        }
        commands.cmd("DISCARD");
        let replies = self.ask(&commands).await?;
        Ok(Some(self.whole(replies.iter().map(answer))))
    }

    /// What only reads is done, on keys that nobody has.
    async fn by_reading(&self) -> Result<Vec<Answer>, Error> {
        let reads: Vec<bool> = self.rights.iter().flat_map(|right| FILLINGS.map(|_| right.is_harmless())).collect();
        let mut commands = redis::pipe();
        for (call, _) in self.calls().zip(&reads).filter(|(_, reads)| **reads) {
            commands.add_command(command(&call));
        }
        let mut replies = self.ask(&commands).await?.into_iter();
        let answers = reads.iter().map(|reads| match reads {
            true => replies.next().as_ref().map_or(Answer::NotAsked, answer),
            false => Answer::NotAsked,
        });
        Ok(self.whole(answers))
    }

    fn calls(&self) -> impl Iterator<Item = Call> {
        self.rights.iter().flat_map(|right| FILLINGS.map(|filling| right.call(filling)))
    }

    async fn ask(&self, commands: &redis::Pipeline) -> Result<Vec<Value>, Error> {
        self.link.ask(self.live, Purpose::Info, DOING, commands).await
    }

    /// One answer a right from one a call; those that the server did not give were not asked.
    fn whole(&self, answers: impl Iterator<Item = Answer>) -> Vec<Answer> {
        let mut answers = answers.chain(std::iter::repeat(Answer::NotAsked));
        let mut of_one = || {
            let answers = FILLINGS.map(|_| answers.next().unwrap_or(Answer::NotAsked));
            let has = |wanted| answers.contains(&wanted);
            let worst = [Answer::Unknown, Answer::Missing, Answer::NotAsked].into_iter().find(|answer| has(*answer));
            worst.unwrap_or(Answer::Granted)
        };
        self.rights.iter().map(|_| of_one()).collect()
    }
}

fn command(call: &Call) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    call.iter().for_each(|word| _ = command.arg(word));
    command
}

fn answer(reply: &Value) -> Answer {
    match reply {
        Value::ServerError(error) if error.code() == "NOPERM" => Answer::Missing,
        Value::ServerError(error) if error.details().is_some_and(|text| text.starts_with("unknown command")) => {
            Answer::Unknown
        }
        // A key of another type than the call wants: it got that far.
        Value::ServerError(error) if error.code() != "WRONGTYPE" => Answer::NotAsked,
        _ => Answer::Granted,
    }
}
