//! Names of scripts: they come off the wire and become files.

/// What file systems take.
const LONGEST: usize = 200;

/// Whether a script may be called this: the kernel keeps the file in its directory anyhow; this keeps out what people
/// would not see, or could not type.
pub(crate) fn is_good(name: &str) -> bool {
    let good = |letter: char| letter.is_alphanumeric() || "-_. ".contains(letter);
    !name.starts_with(['.', '-', ' ']) && (1..=LONGEST).contains(&name.len()) && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_good() {
        for name in ["hello.js", "a", "list-users_2.js", "größe.js", "two words.js"] {
            assert!(is_good(name), "{name:?}");
        }
    }

    #[test]
    fn paths_and_hidden_files_are_not() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", ".bashrc", "-rf", "a\0b", "a\nb", " x", "a;b"] {
            assert!(!is_good(name), "{name:?}");
        }
        assert!(!is_good(&"x".repeat(201)));
    }
}
