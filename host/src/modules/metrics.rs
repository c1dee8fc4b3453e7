//! What modules measure of themselves. Kept by generation, so that a new one begins at nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use muster_plugin_api::{Role, abi::tell};
use serde_json::{Value, json};

use super::{
    actor::{Instance, role_name},
    services::Operation,
};
use crate::ids::ModuleId;

/// Metrics of one module in one role: more is a name that is made from data, which never ends.
const PER_MODULE: usize = 64;
/// Letters of a name.
const LONGEST_NAME: usize = 64;

/// Upper ends of the buckets of a histogram: from a millisecond to an hour, and a long queue.
const BOUNDS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3600.0];

/// The metrics of one generation of a library.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<(ModuleId, Role), Family>>);

type Family = BTreeMap<String, Metric>;

#[derive(Debug, Clone, PartialEq)]
enum Metric {
    Counter(u64),
    Gauge(f64),
    Histogram {
        count: u64,
        sum: f64,
        /// How many were not above each of [`BOUNDS`].
        within: [u64; BOUNDS.len()],
    },
}

impl Metrics {
    /// Whether it is an operation that is done here.
    pub(super) fn concerns(op: u32) -> bool {
        matches!(op, tell::COUNT | tell::GAUGE | tell::OBSERVE)
    }

    /// Notes what a module has measured; false for what is not kept: no name, no number, another kind, too many.
    pub(super) fn note(&self, of: &Instance, operation: Operation<'_>) -> bool {
        let Operation { op, a: name, n, body, .. } = operation;
        let number = || serde_json::from_slice::<f64>(body).ok().filter(|number| number.is_finite());
        let is_name = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return false;
        }
        let mut families = self.lock();
        let family = families.entry((of.module.clone(), of.role)).or_default();
        if !family.contains_key(name) && family.len() >= PER_MODULE {
            return false;
        }
        let fresh = match op {
            tell::COUNT => Metric::Counter(0),
            tell::GAUGE => Metric::Gauge(0.0),
            _ => Metric::Histogram { count: 0, sum: 0.0, within: [0; BOUNDS.len()] },
        };
        let metric = family.entry(name.to_owned()).or_insert(fresh);
        match (metric, op) {
            (Metric::Counter(total), tell::COUNT) => {
                *total = total.saturating_add(n);
                true
            }
            (Metric::Gauge(value), tell::GAUGE) => number().map(|number| *value = number).is_some(),
            (Metric::Histogram { count, sum, within }, tell::OBSERVE) => {
                let Some(number) = number() else { return false };
                *count += 1;
                *sum += number;
                within.iter_mut().zip(BOUNDS).filter(|(_, bound)| number <= *bound).for_each(|(n, _)| *n += 1);
                true
            }
            _ => false,
        }
    }

    /// All of them, by module, role and name.
    pub(crate) fn to_json(&self) -> Value {
        let families = self.lock();
        let all = families.iter().flat_map(|((module, role), family)| {
            family.iter().map(move |(name, metric)| {
                let mut json = metric.to_json();
                json["module"] = module.as_str().into();
                json["role"] = role_name(*role).into();
                json["name"] = name.as_str().into();
                json
            })
        });
        all.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ModuleId, Role), Family>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metric {
    fn to_json(&self) -> Value {
        match self {
            Metric::Counter(total) => json!({ "kind": "counter", "value": total }),
            Metric::Gauge(value) => json!({ "kind": "gauge", "value": value }),
            Metric::Histogram { count, sum, within } => {
                let buckets: Vec<_> = BOUNDS.iter().zip(within).map(|(bound, n)| json!([bound, n])).collect();
                json!({ "kind": "histogram", "count": count, "sum": sum, "buckets": buckets })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use muster_plugin_api::RequestError;

    use super::*;
    use crate::modules::services::{Asker, Services};

    struct Nothing;

    impl Services for Nothing {
        fn ask(&self, _: &ModuleId, asker: Asker, _: Operation<'_>) {
            asker.fail(RequestError::Refused(String::new()));
        }
        fn tell(&self, _: &ModuleId, _: Operation<'_>) -> i64 {
            -1
        }
        fn query(&self, _: &ModuleId, _: u32, _: &str, _: &str) -> Vec<u8> {
            Vec::new()
        }
    }

    fn note(metrics: &Metrics, op: u32, name: &str, n: u64, body: &str) -> bool {
        let module = ModuleId::from("load");
        let of = Instance { number: 1, module, role: Role::Master, deadline: None, services: Arc::new(Nothing) };
        metrics.note(&of, Operation { op, a: name, b: "", n, body: body.as_bytes() })
    }

    #[test]
    fn counters_add_gauges_replace_and_histograms_gather() {
        let metrics = Metrics::default();
        assert!(note(&metrics, tell::COUNT, "files", 2, "") && note(&metrics, tell::COUNT, "files", 3, ""));
        assert!(note(&metrics, tell::GAUGE, "queue", 0, "4") && note(&metrics, tell::GAUGE, "queue", 0, "1.5"));
        assert!(note(&metrics, tell::OBSERVE, "seconds", 0, "0.2") && note(&metrics, tell::OBSERVE, "seconds", 0, "7"));
        let json = metrics.to_json();
        assert_eq!(
            json[0],
            json!({ "module": "load", "role": "master", "name": "files", "kind": "counter", "value": 5 })
        );
        assert_eq!(json[1]["value"], 1.5);
        assert_eq!((&json[2]["count"], &json[2]["sum"]), (&json!(2), &json!(7.2)));
        assert_eq!((&json[2]["buckets"][5], &json[2]["buckets"][8]), (&json!([0.5, 1]), &json!([10.0, 2])));
    }

    #[test]
    fn what_has_no_end_or_no_sense_is_not_kept() {
        let metrics = Metrics::default();
        for name in ["", "a b", "ä", &"a".repeat(65)] {
            assert!(!note(&metrics, tell::COUNT, name, 1, ""), "{name}");
        }
        assert!(note(&metrics, tell::COUNT, "n", 1, ""));
        assert!(!note(&metrics, tell::GAUGE, "n", 0, "1"), "it is a counter");
        assert!(!note(&metrics, tell::GAUGE, "g", 0, "\"much\""), "it is no number");
        let kept = (0..100).filter(|n| note(&metrics, tell::COUNT, &format!("name_{n}"), 1, "")).count();
        assert_eq!(kept, PER_MODULE - 2);
    }
}
