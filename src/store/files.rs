//! Files that an operator names: secrets and certificates, read anew wherever one is needed, so that a rotated one holds
//! from then on.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;

/// Bytes that a secret has at most.
const LONGEST_SECRET: u64 = 4_096;

/// The file, or as much of it as `most` bytes.
pub(super) async fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    tokio::fs::File::open(path).await?.take(most).read_to_end(&mut contents).await?;
    Ok(contents)
}

/// A secret: what stands in the file, line breaks at its end cut off.
///
/// # Errors
/// It can't be read, is empty, or is too long to be one, in a sentence that says so and shows nothing of it.
pub async fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let mut contents =
        read(path, LONGEST_SECRET + 1).await.map_err(|error| format!("{shown} can't be read: {error}"))?;
    // bound: as long as what was read
    while contents.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        contents.pop();
    }
    match contents.len() as u64 {
        0 => Err(format!("{shown} is empty")),
        length if length > LONGEST_SECRET => Err(format!("{shown} is too long; at most {LONGEST_SECRET} bytes")),
        _ => Ok(contents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_what_stands_in_its_file_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read_back = async |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            secret(&path).await
        };
        assert_eq!(read_back(b"hush\r\n").await.unwrap(), b"hush");
        assert_eq!(read_back(b" \xff ").await.unwrap(), b" \xff ");
        assert!(read_back(b"\n").await.unwrap_err().ends_with("is empty"));
        assert!(read_back(&[b'x'; 5_000]).await.unwrap_err().contains("too long"));
        std::fs::remove_file(&path).unwrap();
        assert!(secret(&path).await.unwrap_err().contains("can't be read"));
    }
}
