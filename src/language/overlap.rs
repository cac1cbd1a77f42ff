//! Two shapes of text, asked whether they can meet: the rules that keep a companion off the living.

/// A shape is a row of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// This byte.
    Byte(u8),
    /// Any one byte.
    One,
    /// Any bytes, or none.
    Star,
    /// Some text that shares no byte with the other shape.
    Alien,
}

/// Whether some text has both shapes.
pub(super) fn overlap(a: &[Token], b: &[Token]) -> bool {
    // `meets[j]` says whether what is left of `a` and `b[j..]` can be the same text; rows are filled from the end.
    let mut below = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let mut meets = vec![false; b.len() + 1];
        for j in (0..=b.len()).rev() {
            meets[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(Token::Star), None) => below[j],
                (None, Some(Token::Star)) => meets[j + 1],
                (Some(Token::Star), Some(_)) | (Some(_), Some(Token::Star)) => {
                    // Either star takes nothing, or it takes what the other holds.
                    below[j] || meets[j + 1]
                }
                (Some(Token::Byte(x)), Some(Token::Byte(y))) => x == y && below[j + 1],
                (Some(Token::Byte(_)), Some(Token::Alien)) | (Some(Token::Alien), Some(Token::Byte(_))) => false,
                (Some(_), Some(_)) => below[j + 1],
                (None, Some(_)) | (Some(_), None) => false,
            };
        }
        below = meets;
    }
    below[0]
}

/// Whether every text of shape `text` surely has shape `pattern`, whose stars each follow a [`Token::One`].
pub(super) fn covers(pattern: &[Token], text: &[Token]) -> bool {
    let mut below = vec![false; text.len() + 1];
    for i in (0..=pattern.len()).rev() {
        let mut fits = vec![false; text.len() + 1];
        for j in (0..=text.len()).rev() {
            fits[j] = match (pattern.get(i), text.get(j)) {
                (None, None) => true,
                (Some(Token::Star), None) => below[j],
                (Some(Token::Star), Some(_)) => below[j] || fits[j + 1],
                // What may be nothing cannot be the one byte, but the star behind it takes it all the same.
                (Some(Token::One), Some(Token::Star)) => fits[j + 1],
                (Some(Token::One), Some(_)) => below[j + 1],
                (Some(Token::Byte(x)), Some(Token::Byte(y))) => x == y && below[j + 1],
                _ => false,
            };
        }
        below = fits;
    }
    below[0]
}
