//! Any bytes can be written as a word, and what was split can be written and split again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use presence_reaper::language::words::{MAX_LEN, split};
use presence_reaper::text::quoted;

fuzz_target!(|input: (&str, Vec<&[u8]>)| {
    let (text, words) = input;
    comes_back(words.into_iter().map(<[u8]>::to_vec).collect());
    match split(text) {
        Ok(words) => {
            assert!(text.len() <= MAX_LEN && !text.contains(['\n', '\r']));
            comes_back(words);
        }
        Err(mistake) => assert!(!mistake.what.contains('\n'), "{mistake}"),
    }
    // Without quotes there is nothing but blanks to split at.
    let plain = text.replace(['"', '\'', '\n', '\r'], "");
    if plain.len() <= MAX_LEN {
        let expected: Vec<&[u8]> =
            plain.split([' ', '\t']).filter(|word| !word.is_empty()).map(str::as_bytes).collect();
        assert_eq!(
            split(&plain).as_deref().map(|words| words.to_vec()),
            Ok(expected.iter().map(|w| w.to_vec()).collect())
        );
    }
});

/// Quoted as in reports, words split into themselves.
fn comes_back(words: Vec<Vec<u8>>) {
    let text = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    if text.len() <= MAX_LEN {
        assert_eq!(split(&text), Ok(words), "{text}");
    }
}
