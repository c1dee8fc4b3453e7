//! What is to be reached: how many times better than the first target (Node's master) the second one has to be.

/// The ratio that a figure must reach, and the one that is aimed at.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) must: f64,
    pub(crate) aim: f64,
}

/// The goal of a figure of a cell, if it has one.
pub(crate) fn goal(cell: &str, figure: &str) -> Option<Goal> {
    let (must, aim) = match (cell, figure) {
        ("s4:50x16", "req_per_s") => (4.0, 7.0),
        ("s4:50x16", "p99_us") => (5.0, 8.0),
        ("s4:50x1", "req_per_s") => (2.6, 3.3),
        ("s4:1x1" | "s5:1x1x1", "p50_us") => (0.95, 1.1),
        ("s5:50x16x50", "req_per_s") => (4.0, 7.5),
        ("s3:50x16384", "msgs_per_s") => (2.5, 5.0),
        ("s6:1000" | "s6:5000", "last_p50_ms") => (2.0, 2.4),
        ("s7:1000", "list_p50_ms") => (2.5, 3.2),
        ("s1:5000" | "s1:10000", "cpu_us_per_reg") => (5.0, 7.5),
        ("s1:5000" | "s1:10000", "rss_per_conn_bytes") => (4.0, 7.0),
        ("s8:2000", "p99_us") => (4.0, 8.0),
        ("s8:2000", "steady_cpu_pct") => (2.5, 3.5),
        ("s8:2000", "rss_mb") => (5.0, 10.0),
        _ => return None,
    };
    Some(Goal { must, aim })
}

impl Goal {
    /// How a ratio compares.
    pub(crate) fn verdict(self, ratio: f64) -> &'static str {
        match ratio {
            _ if ratio >= self.aim => "aim reached",
            _ if ratio >= self.must => "must reached",
            _ => "**missed**",
        }
    }
}
