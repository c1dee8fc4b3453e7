//! How a user's password is kept, and what that can be compared with.
//!
//! Clients log in with the password, or with its MD5 (real clients and pomelo-cli always). What is kept is one of
//!
//! | kept | the password | its MD5 |
//! |---|---|---|
//! | as plain text, as pomelo keeps it | yes | yes |
//! | as argon2 of the MD5: `$argon2…,data=bWQ1$…`, which `muster user passwd` makes | yes | yes |
//! | as argon2 of the password itself: any other `$argon2…` | yes | cannot be compared |
//!
//! The `data` of a hash goes into it, so that a hash of the one kind is never one of the other.

use argon2::{
    Argon2, AssociatedData, ParamsBuilder, PasswordHasher, PasswordVerifier,
    password_hash::{PasswordHash, PasswordHashString, SaltString},
};

use super::value::Secret;
use crate::wire::handshake::md5_hex;

/// Marks hashes of the MD5.
const OF_MD5: &[u8] = b"md5";

/// A password as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// As it is.
    Plain(Secret),
    /// As argon2.
    Hashed(Hash),
}

/// A hash, with what it was made from.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    text: PasswordHashString,
    of_md5: bool,
}

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// It is the password.
    Right,
    /// It is not.
    Wrong,
    /// An MD5 was shown for what is kept as a hash of the password itself.
    OtherForm,
}

impl Password {
    /// Reads what a file says; `None` for a hash that is none.
    pub(crate) fn of(text: &str) -> Option<Password> {
        if !text.starts_with("$argon2") {
            return Some(Password::Plain(Secret::from(text.to_owned())));
        }
        let hash = PasswordHash::new(text).ok()?;
        // Checks the parameters as well: what cannot be computed is told at the start, not at each login.
        let params = argon2::Params::try_from(&hash).ok()?;
        hash.hash?;
        let of_md5 = params.data() == OF_MD5;
        Some(Password::Hashed(Hash { text: hash.serialize(), of_md5 }))
    }

    /// Makes a hash that serves both forms.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn hash(password: &str) -> std::io::Result<String> {
        let mut salt = [0; 16];
        rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
        let other = |error: argon2::password_hash::Error| std::io::Error::other(error.to_string());
        let salt = SaltString::encode_b64(&salt).map_err(other)?;
        let data = AssociatedData::new(OF_MD5).map_err(|error| std::io::Error::other(error.to_string()))?;
        let params =
            ParamsBuilder::new().data(data).build().map_err(|error| std::io::Error::other(error.to_string()))?;
        let hash = Argon2::from(params).hash_password(md5_hex(password).as_bytes(), &salt).map_err(other)?;
        Ok(hash.to_string())
    }

    /// Compares, in a time that does not depend on what is shown. A hash takes tens of milliseconds and 19 MiB.
    pub(crate) fn compare(&self, shown: &str, is_md5: bool) -> Login {
        let right = match self {
            Password::Plain(stored) if is_md5 => Secret::from(md5_hex(stored.expose())).matches(shown),
            Password::Plain(stored) => stored.matches(shown),
            Password::Hashed(hash) if is_md5 && !hash.of_md5 => return Login::OtherForm,
            Password::Hashed(hash) if hash.of_md5 && !is_md5 => hash.matches(&md5_hex(shown)),
            Password::Hashed(hash) => hash.matches(shown),
        };
        if right { Login::Right } else { Login::Wrong }
    }
}

impl Hash {
    /// Whether it also serves logins that show an MD5.
    pub(crate) fn of_md5(&self) -> bool {
        self.of_md5
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        Argon2::default().verify_password(text.as_bytes(), &self.text.password_hash()).is_ok()
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash").field("of_md5", &self.of_md5).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `secret`, by another implementation (argon2-cffi).
    const FOREIGN: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow";

    #[test]
    fn row_29_what_we_hash_serves_both_forms_and_is_no_password() {
        let kept = Password::hash("secret").unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1,data=bWQ1$"), "{kept}");
        assert_ne!(kept, Password::hash("secret").unwrap(), "each has a salt of its own");
        let kept = Password::of(&kept).unwrap();
        assert_eq!(kept.compare("secret", false), Login::Right);
        assert_eq!(kept.compare(&md5_hex("secret"), true), Login::Right);
        assert_eq!(kept.compare(&md5_hex("secret"), false), Login::Wrong, "the MD5 is not the password");
        assert_eq!(kept.compare("Secret", false), Login::Wrong);
    }

    #[test]
    fn a_hash_of_the_password_itself_serves_the_password_only() {
        let kept = Password::of(FOREIGN).unwrap();
        assert_eq!(kept.compare("secret", false), Login::Right);
        assert_eq!(kept.compare("other", false), Login::Wrong);
        assert_eq!(kept.compare(&md5_hex("secret"), true), Login::OtherForm);
    }

    #[test]
    fn a_broken_hash_is_no_password_and_other_dollars_are() {
        assert_eq!(Password::of("$argon2id$v=19$m=8"), None);
        assert_eq!(Password::of("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ"), None, "a hash without the hash");
        assert_eq!(Password::of("$ecret"), Some(Password::Plain(Secret::from("$ecret".to_owned()))));
    }
}
