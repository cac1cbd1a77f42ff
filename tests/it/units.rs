//! The units for systemd, as far as their text tells; what they do `tests/deploy/systemd.sh` sees under a real one.

use std::fs;
use std::path::Path;

/// From the comment on: what shuts the process in, up to the next section.
fn sandbox(text: &str) -> Option<&str> {
    let (_, shut_in) = text.split_once("# Sandbox")?;
    Some(shut_in.split("\n[").next()?.trim_end())
}

/// The sandboxes, each with the units that have it.
fn sandboxes(units: &[(String, String)]) -> Vec<(Option<&str>, Vec<&str>)> {
    let mut all: Vec<(Option<&str>, Vec<&str>)> = Vec::new();
    for (name, text) in units {
        let own = sandbox(text);
        match all.iter_mut().find(|(other, _)| *other == own) {
            Some((_, names)) => names.push(name),
            None => all.push((own, vec![name])),
        }
    }
    all
}

#[test]
fn all_services_are_shut_in_alike() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let services = files.filter(|path| path.extension().is_some_and(|extension| extension == "service"));
    let named = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let services: Vec<_> = services.map(|path| (named(&path), fs::read_to_string(&path).unwrap())).collect();
    assert_eq!(services.len(), 3);
    let [(Some(shut_in), _)] = sandboxes(&services)[..] else {
        panic!("sandboxes differ, or are missing: {:#?}", sandboxes(&services));
    };
    assert!(shut_in.contains("NoNewPrivileges=yes"), "{shut_in}");
}

#[test]
fn another_sandbox_is_seen() {
    let unit = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let one = unit("one", "[Service]\n# Sandbox, the same\nPrivateTmp=yes\n\n[Install]\n");
    let same = unit("same", "[Service]\nType=oneshot\n# Sandbox, the same\nPrivateTmp=yes\n");
    let other = unit("other", "[Service]\n# Sandbox, the same\nPrivateTmp=no\n");
    let none = unit("none", "[Service]\n");
    assert_eq!(sandboxes(&[one.clone(), same]).len(), 1);
    assert_eq!(sandboxes(&[one.clone(), other]).len(), 2);
    assert_eq!(sandboxes(&[one, none]).len(), 2);
}
