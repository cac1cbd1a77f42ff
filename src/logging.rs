//! What the program says on stderr while it runs.

/// How much is said, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// The least important level that is still written.
    pub level: tracing::Level,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line for a person.
    #[default]
    Text,
    /// A JSON object.
    Json,
}
