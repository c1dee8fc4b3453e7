//! What the kernel says of file systems.

use std::collections::BTreeMap;

use muster_plugin_api::{
    ModuleError,
    serde::{Deserialize, Serialize},
};

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(crate = "muster_plugin_api::serde")]
pub struct Usage {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are left for users other than root.
    pub free: u64,
}

impl Usage {
    /// What is in use, to a tenth.
    pub fn percent(&self) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        let used = self.total.saturating_sub(self.free) as f64;
        (used / self.total as f64 * 1000.0).round() / 10.0
    }
}

/// The file systems of these paths. Blocks.
pub(crate) fn usages(paths: &[String]) -> Result<BTreeMap<String, Usage>, ModuleError> {
    let usage = |path: &String| {
        let found = rustix::fs::statvfs(path.as_str()).map_err(|error| format!("{path}: {error}"))?;
        let usage = Usage { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize };
        Ok((path.clone(), usage))
    };
    paths.iter().map(usage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_of_what_there_is() {
        assert_eq!(Usage { total: 1000, free: 125 }.percent(), 87.5);
        assert_eq!(Usage { total: 0, free: 0 }.percent(), 0.0, "such as /proc");
        assert_eq!(Usage { total: 10, free: 20 }.percent(), 0.0);
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let error = usages(&["/".to_owned(), "/no/such/path".to_owned()]).unwrap_err();
        assert!(error.message().starts_with("/no/such/path: "), "{error}");
    }
}
