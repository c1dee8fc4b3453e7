//! The policy, by cases; what the daemon makes of it is in the integration tests.

use std::os::unix::fs::{PermissionsExt, symlink};

use minisign::KeyPair;

use super::*;

/// A user that is neither root nor the daemon's.
const STRANGER: u32 = 4_321;
const ME: u32 = 1_000;

#[track_caller]
fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn manifest(name: &str, version: &str) -> PluginManifest {
    serde_json::from_value(serde_json::json!({
        "name": name, "version": version, "api": "1.0.0", "compiler": "rustc", "panic": "unwind", "modules": [],
    }))
    .unwrap()
}

fn sign(pair: &KeyPair, bytes: &[u8], comment: &str) -> String {
    minisign::sign(Some(&pair.pk), &pair.sk, bytes, Some(comment), None).unwrap().to_string()
}

fn trusting(pair: &KeyPair) -> Trust {
    let key = PublicKey::from_base64(&pair.pk.to_base64()).unwrap();
    Trust { keys: Some(vec![key]), ..Trust::default() }
}

#[test]
fn root_and_the_daemons_user_may_own_and_nobody_else_may_write() {
    let path = Path::new("/p");
    for (owner, mode, part, words) in [
        (0, 0o755, Part::Last, ""),
        (ME, 0o700, Part::Last, ""),
        (STRANGER, 0o755, Part::Last, "/p belongs to user 4321"),
        (STRANGER, 0o755, Part::Above, "`chown 1000 /p`"),
        (STRANGER, 0o777, Part::Link, "belongs to user 4321"),
        (ME, 0o777, Part::Link, ""),
        (ME, 0o775, Part::Last, "others may write to /p (mode 0775): `chmod go-w /p`"),
        (ME, 0o757, Part::Above, "mode 0757"),
        (0, 0o1777, Part::Above, ""),
        (0, 0o1777, Part::Last, "mode 1777"),
        (STRANGER, 0o1777, Part::Above, "belongs to user 4321"),
    ] {
        let verdict = owned_and_closed(path, owner, mode, part, ME);
        let text = verdict.err().map(|refusal| refusal.to_string()).unwrap_or_default();
        assert!(text.contains(words) && text.is_empty() == words.is_empty(), "{owner} {mode:o} {part:?}: {text}");
    }
}

#[test]
fn every_directory_on_the_way_counts_and_links_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let real = root.path().join("open/real");
    fs::create_dir_all(&real).unwrap();
    mode(&real, 0o755);
    mode(&root.path().join("open"), 0o755);
    symlink("open/../open/real", root.path().join("link")).unwrap();
    let link = root.path().join("link");
    let trust = Trust::default();
    assert_eq!(trust.directory(&link), Ok(()));
    mode(&root.path().join("open"), 0o777);
    let refusal = trust.directory(&link).unwrap_err().to_string();
    assert!(refusal.contains("/open (mode 0777)"), "{refusal}");
    let careless = Trust { strict: false, ..Trust::default() };
    assert_eq!(careless.directory(&link), Ok(()));
    assert_eq!(trust.directory(&root.path().join("missing")), Ok(()), "that is another fault");
    mode(&root.path().join("open"), 0o755);
    fs::write(real.join("a.so"), "").unwrap();
    mode(&real.join("a.so"), 0o666);
    assert_eq!(trust.way_to(&link.join("a.so")).unwrap(), Ok(()), "the file is judged when it is open");
    let metadata = fs::File::open(real.join("a.so")).unwrap().metadata().unwrap();
    assert!(matches!(trust.opened(&real, &metadata), Err(Refusal::WritableByOthers { .. })));
    symlink("circle", root.path().join("circle")).unwrap();
    assert!(trust.way_to(&root.path().join("circle/a.so")).is_err());
}

#[test]
fn a_signature_has_to_be_there_by_a_known_key_for_these_bytes_and_say_for_what() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a.so");
    let bytes = b"library";
    let hash = ContentHash::of(bytes);
    let [pair, other] = [(); 2].map(|()| KeyPair::generate_unencrypted_keypair().unwrap());
    let trust = trusting(&pair);
    let check = |signature: Option<String>| {
        match signature {
            Some(signature) => fs::write(signature_of(&file), signature).unwrap(),
            None => drop(fs::remove_file(signature_of(&file))),
        }
        trust.content(&file, bytes, hash)
    };
    let good = "timestamp:1 id=a version=1.0.0";
    assert!(matches!(check(None), Err(Refusal::NotSigned(path)) if path.ends_with("a.so.minisig")));
    assert!(matches!(check(Some("hello".to_owned())), Err(Refusal::BadSignature(_))));
    assert_eq!(check(Some(sign(&other, bytes, good))), Err(Refusal::UnknownKey));
    assert!(matches!(check(Some(sign(&pair, b"Library", good))), Err(Refusal::BadSignature(_))));
    assert!(matches!(check(Some(sign(&pair, bytes, "a plugin"))), Err(Refusal::SignedAsNothing(_))));
    let forged = sign(&pair, bytes, good).replace("version=1.0.0", "version=9.0.0");
    assert!(matches!(check(Some(forged)), Err(Refusal::BadSignature(_))), "the comment is signed as well");
    let signed = check(Some(sign(&pair, bytes, good))).unwrap();
    assert_eq!(signed, Some(Signed { id: "a".to_owned(), version: "1.0.0".to_owned() }));
    assert_eq!(trust.manifest(signed.as_ref(), &manifest("a", "1.0.0")), Ok(()));
    for (name, version) in [("b", "1.0.0"), ("a", "1.0.1")] {
        let verdict = trust.manifest(signed.as_ref(), &manifest(name, version));
        assert!(matches!(verdict, Err(Refusal::SignedAsAnother { .. })), "{name} {version}");
    }
}

#[tokio::test]
async fn an_older_version_than_the_highest_that_ran_is_refused_unless_that_is_allowed() {
    let pair = KeyPair::generate_unencrypted_keypair().unwrap();
    let trust = trusting(&pair);
    let check = |trust: &Trust, version: &str| {
        let signed = Signed { id: "a".to_owned(), version: version.to_owned() };
        trust.manifest(Some(&signed), &manifest("a", version))
    };
    for version in ["1.9.0", "1.10.0", "1.9.5"] {
        trust.ran(&manifest("a", version)).await;
    }
    assert_eq!(check(&trust, "1.10.0"), Ok(()));
    let refused = Refusal::Downgrade { found: "1.9.9".to_owned(), highest: "1.10.0".to_owned() };
    assert_eq!(check(&trust, "1.9.9"), Err(refused));
    let allowing = Trust { allow_downgrade: true, ..trust.clone() };
    assert_eq!(check(&allowing, "1.9.9"), Ok(()));
    allowing.ran(&manifest("a", "1.9.9")).await;
    assert_eq!(check(&trust, "1.9.9"), Ok(()), "what was allowed once is the measure from then on");
}

#[test]
fn with_a_list_only_what_is_on_it_is_loaded() {
    let listed = ContentHash::of(b"listed");
    let trust = Trust { listed: Some([listed].into()), ..Trust::default() };
    let path = Path::new("/nowhere/a.so");
    assert_eq!(trust.content(path, b"listed", listed), Ok(None));
    let other = ContentHash::of(b"other");
    assert_eq!(trust.content(path, b"other", other), Err(Refusal::NotListed(other.to_string())));
}
