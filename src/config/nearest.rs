//! The near miss of a mistyped word.

/// The known word that was probably meant: at most a third of its letters are wrong.
pub(super) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known.into_iter().map(|word| (distance(written, word), word));
    let (distance, word) = distances.min_by_key(|(distance, _)| *distance)?;
    let letters = word.chars().count();
    (distance <= (letters / 3).max(1) && distance < letters).then_some(word)
}

/// How many letters are to be added, removed, replaced or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: &str, expect: Option<&str>) {
        assert_eq!(nearest(written, ["listen", "threads", "a", "body_bytes_max"]), expect, "{written}");
    }

    #[test]
    fn near_misses_are_found_and_others_are_not() {
        check("lisen", Some("listen"));
        check("litsen", Some("listen"));
        check("Listen", Some("listen"));
        check("thread", Some("threads"));
        check("body_max_bytes", None);
        check("body_byte_max", Some("body_bytes_max"));
        check("tls", None);
        check("b", None);
        check("", None);
    }
}
