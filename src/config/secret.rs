//! A secret: read from the configuration, the environment or a file, and never printed.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The largest secret file that is read: credentials are short, so a larger one is the wrong file.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;
/// The permission bit that lets everyone read.
const WORLD_READABLE: u32 = 0o004;

/// A credential. Printing it in any form shows `(secret)`; [`Secret::expose`] is the only way out.
///
/// Comparing tells whether a reload changed it. It takes as long as the common prefix, so it does
/// not serve to check a credential that somebody presents.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a credential that can stand in a header.
    ///
    /// # Errors
    /// What is wrong, without quoting it: empty, or other than visible ASCII.
    pub fn parse(text: &str) -> Result<Secret, &'static str> {
        if text.is_empty() {
            return Err("is empty: a secret has at least one character");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has characters other than visible ASCII, which cannot stand in a header");
        }
        Ok(Secret(text.to_owned()))
    }

    /// The credential itself, to send or to check.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a file that only its owner or group can read, without its last line end.
    pub(super) fn read(path: &Path) -> Result<Secret, String> {
        let text = read(path)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        Secret::parse(text).map_err(|why| format!("{} {why}", path.display()))
    }
}

/// The text of a file that only its owner or group can read.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |error| format!("{shown} cannot be read: {error}");
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if metadata.permissions().mode() & WORLD_READABLE != 0 {
        return Err(format!("{shown} can be read by everyone: run `chmod o-r` on it"));
    }
    if metadata.len() > SECRET_FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {SECRET_FILE_BYTES_MAX} bytes: not a secret"));
    }
    fs::read_to_string(path).map_err(unreadable)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, mode: u32, expect: Result<&str, &str>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        match (Secret::read(&path), expect) {
            (Ok(secret), Ok(text)) => assert_eq!(secret.expose(), text),
            (Err(why), Err(part)) => assert!(why.contains(part) && !why.contains("sk-"), "{why}"),
            (got, _) => panic!("{content:?} as {mode:o}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn a_file_is_read_without_its_line_end() {
        check("sk-abc\n", 0o600, Ok("sk-abc"));
        check("sk-abc\r\n", 0o640, Ok("sk-abc"));
        check("sk-abc", 0o400, Ok("sk-abc"));
    }

    #[test]
    fn a_bad_file_is_refused() {
        check("sk-abc\n", 0o644, Err("can be read by everyone"));
        check("\n", 0o600, Err("is empty"));
        check("sk-a\nsk-b\n", 0o600, Err("visible ASCII"));
        check(&"x".repeat(65 * 1024), 0o600, Err("larger than"));
    }

    #[test]
    fn it_is_never_printed() {
        let secret = Secret::parse("sk-abc").unwrap();
        assert_eq!(format!("{secret} {secret:?}"), "(secret) (secret)");
    }
}
