//! Which plugin has to wait for which: pure policy.
//!
//! A plugin whose needs are not served is refused, and vetted again when another plugin has started; so plugins start
//! in the order of their needs, whatever their names. Needs that lead back to where they began are told as a circle.

use std::{collections::BTreeMap, sync::Arc};

use muster_plugin_api::{Manifest, Role};

/// What a file needs, and what it would serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wants {
    needs: Vec<(Role, String)>,
    serves: Vec<(Role, String)>,
}

/// Needs that lead back to where they began.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Circle {
    /// Each needs the next; the first is the last again.
    pub(super) modules: Vec<String>,
    /// Whose modules they are.
    pub(super) files: Vec<Arc<str>>,
}

// === impl Wants ===

impl Wants {
    /// Of the modules that a file would serve.
    pub(super) fn of<'a>(modules: impl Iterator<Item = (Role, &'a Manifest)>) -> Wants {
        let mut wants = Wants { needs: Vec::new(), serves: Vec::new() };
        for (role, module) in modules {
            wants.needs.extend(module.needs.iter().map(|id| (role, id.clone())));
            wants.serves.extend(std::iter::once(&module.id).chain(&module.aliases).map(|id| (role, id.clone())));
        }
        wants
    }

    /// The ids that it needs, and neither serves itself nor finds served.
    pub(super) fn missing(&self, is_served: impl Fn(Role, &str) -> bool) -> Vec<String> {
        let missing = self.needs.iter().filter(|need| !self.serves.contains(need) && !is_served(need.0, &need.1));
        let mut missing: Vec<String> = missing.map(|(_, id)| id.clone()).collect();
        missing.sort();
        missing.dedup();
        missing
    }
}

/// The circle that leads from a file back to it through files that wait as well.
pub(super) fn circle(file: &Arc<str>, wants: &BTreeMap<&Arc<str>, &Wants>) -> Option<Circle> {
    let mut path = Vec::new();
    let mut seen = Vec::new();
    leads_back(file, file, wants, &mut seen, &mut path).then(|| {
        let mut modules: Vec<String> = path.iter().map(|(_, id)| (*id).to_owned()).collect();
        modules.rotate_right(1);
        modules.extend(modules.first().cloned());
        Circle { modules, files: path.iter().map(|(file, _)| (*file).clone()).collect() }
    })
}

/// Whether the needs of `here` lead to `home`; then `path` tells over which files, and which module each needs.
fn leads_back<'a>(
    here: &'a Arc<str>,
    home: &Arc<str>,
    wants: &BTreeMap<&'a Arc<str>, &'a Wants>,
    seen: &mut Vec<&'a Arc<str>>,
    path: &mut Vec<(&'a Arc<str>, &'a str)>,
) -> bool {
    if seen.contains(&here) {
        return false;
    }
    seen.push(here);
    let Some(own) = wants.get(here) else { return false };
    for need in own.needs.iter().filter(|need| !own.serves.contains(need)) {
        path.push((here, &need.1));
        for (&other, _) in wants.iter().filter(|(_, other)| other.serves.contains(need)) {
            if other == home || leads_back(other, home, wants, seen, path) {
                return true;
            }
        }
        path.pop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one module, called like the file.
    fn wants(id: &str, needs: &[&str]) -> Wants {
        let manifest = needs.iter().fold(Manifest::new(id, "1.0.0"), |manifest, need| manifest.needs(need));
        Wants::of([(Role::Master, &manifest)].into_iter())
    }

    fn found(files: &[(&str, &[&str])]) -> Option<(String, usize)> {
        let files: Vec<(Arc<str>, Wants)> = files.iter().map(|(id, needs)| ((*id).into(), wants(id, needs))).collect();
        let of = files.first().map(|(file, _)| file.clone())?;
        let files = files.iter().map(|(file, wants)| (file, wants)).collect();
        circle(&of, &files).map(|circle| (circle.modules.join(" → "), circle.files.len()))
    }

    #[test]
    fn what_is_missing_is_told_once_and_what_a_file_serves_itself_is_not() {
        let [a, b] = [
            Manifest::new("a", "1").needs("b").needs("x").needs("y"),
            Manifest::new("b", "1").alias("y").needs("x").needs("z"),
        ];
        let wants = Wants::of([(Role::Master, &a), (Role::Master, &b)].into_iter());
        assert_eq!(wants.missing(|_, id| id == "z"), ["x"]);
        assert_eq!(wants.missing(|_, _| true), Vec::<String>::new());
        let apart = Wants::of([(Role::Master, &a), (Role::Monitor, &b)].into_iter());
        assert_eq!(apart.missing(|_, _| false), ["b", "x", "y", "z"], "a module is needed in the same role");
    }

    #[test]
    fn a_circle_is_told_by_its_modules_and_a_chain_is_none() {
        assert_eq!(found(&[("a", &["b"]), ("b", &["c"])]), None, "c may still come");
        assert_eq!(found(&[("a", &["b"]), ("b", &["a"])]), Some(("a → b → a".to_owned(), 2)));
        let three: &[(&str, &[&str])] = &[("a", &["x", "b"]), ("b", &["c"]), ("c", &["b", "a"])];
        assert_eq!(found(three), Some(("a → b → c → a".to_owned(), 3)));
        assert_eq!(found(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]), None, "it waits for a circle, outside of it");
        assert_eq!(found(&[("a", &["a"])]), None, "what it serves itself is there");
    }
}
