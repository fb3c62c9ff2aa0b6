//! What the metrics listener says, read: families of samples by their labels.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Default)]
pub struct Scrape(BTreeMap<String, Vec<Sample>>);

/// One line of it.
#[derive(Debug)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}

impl Scrape {
    /// Reads Prometheus' text format; what is not understood is left out.
    pub fn read(text: &str) -> Self {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = sample(line) {
                samples.entry(name).or_default().push(sample);
            }
        }
        Scrape(samples)
    }

    fn all(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The only sample of this name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.all(name).first().map(|sample| sample.value)
    }

    /// A label of the first sample of this name.
    pub fn label(&self, name: &str, label: &str) -> Option<&str> {
        self.all(name).first()?.label(label)
    }

    /// The samples of this name, summed by one of their labels, of those that `takes` agrees to.
    pub fn by(&self, name: &str, label: &str, takes: impl Fn(&Labels<'_>) -> bool) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.all(name).iter().filter(|sample| takes(&Labels(sample))) {
            let key = sample.label(label).unwrap_or_default().to_owned();
            *sums.entry(key).or_default() += sample.value;
        }
        sums
    }

    /// The buckets of a histogram, summed over its labels: their upper bounds, and how many were at most that.
    pub fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let bounds = self.by(&format!("{name}_bucket"), "le", |_| true);
        let mut buckets: Vec<(f64, f64)> =
            bounds.into_iter().filter_map(|(bound, count)| Some((bound.parse().ok()?, count))).collect();
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        buckets
    }
}

/// The labels of a sample.
pub struct Labels<'a>(&'a Sample);

impl Labels<'_> {
    /// Whether one of them has this value.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.0.label(name) == Some(value)
    }
}

fn sample(line: &str) -> Option<(String, Sample)> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), Sample { labels, value }))
}

/// Labels up to their closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, plain) => value.push(plain),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &quoted[end + 1..];
    }
}

/// A share of what two scrapes of a histogram have between them: the value that it is at most, in the way
/// of Prometheus' `histogram_quantile`. None if there is nothing between them.
pub fn quantile(before: &[(f64, f64)], now: &[(f64, f64)], share: f64) -> Option<f64> {
    let earlier =
        |bound: f64| before.iter().find(|(found, _)| *found == bound).map_or(0.0, |(_, count)| *count);
    let counts: Vec<(f64, f64)> =
        now.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
    let total = counts.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let rank = share * total;
    let (mut from, mut below) = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= rank {
            // Of what is above the last bound nobody knows how far.
            let part = if count > below { (rank - below) / (count - below) } else { 1.0 };
            return Some(if bound.is_finite() { from + (bound - from) * part } else { from });
        }
        (from, below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"q\\\"}\\n\"} 2\na{x=\"1\",y=\"\"} 3.5\na{x=\"2\"} 1e-3\nb 7\nbroken{\n{} \n";
        let scrape = Scrape::read(text);
        assert_eq!(scrape.by("a", "x", |_| true), [("1".into(), 5.5), ("2".into(), 0.001)].into());
        assert_eq!(scrape.by("a", "x", |labels| labels.has("y", "q\"}\n")), [("1".into(), 2.0)].into());
        assert_eq!(
            (scrape.value("b"), scrape.value("c"), scrape.label("a", "x")),
            (Some(7.0), None, Some("1"))
        );
    }

    fn check(before: &[f64], now: &[f64], share: f64, expect: Option<f64>) {
        let bounds = [0.25, 0.5, 1.0, f64::INFINITY];
        let [before, now] =
            [before, now].map(|counts| bounds.into_iter().zip(counts.iter().copied()).collect::<Vec<_>>());
        assert_eq!(quantile(&before, &now, share), expect);
    }

    #[test]
    fn quantiles_are_of_what_came_between() {
        check(&[], &[], 0.5, None);
        check(&[9.0; 4], &[9.0; 4], 0.5, None);
        check(&[5.0; 4], &[15.0; 4], 0.5, Some(0.125));
        check(&[0.0; 4], &[0.0, 10.0, 10.0, 10.0], 1.0, Some(0.5));
        check(&[0.0; 4], &[0.0, 0.0, 0.0, 10.0], 0.99, Some(1.0));
        // A gateway that had no such requests before.
        check(&[], &[4.0, 4.0, 8.0, 8.0], 0.75, Some(0.75));
    }
}
