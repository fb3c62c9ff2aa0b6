//! How a view looks on a screen of a size: lines of text in a few styles. Knows no terminal.

use super::view::{Latency, Model, Upstream, View};
use crate::cli::pool::said;
use crate::cli::table::layout;
use crate::record::failures::Failure;
use std::time::Duration;

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// It does not.
    Plain,
    /// What names the rest.
    Faint,
    /// A figure.
    Strong,
    /// Trouble.
    Bad,
}

/// A line, as pieces that follow on each other.
pub type Line = Vec<(Style, String)>;

/// How much there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters of a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// What is known of the gateway.
pub struct Shown<'a> {
    /// Where it is.
    pub gateway: &'a str,
    /// The last view of it.
    pub view: Option<&'a View>,
    /// What the keys do, where there are any.
    pub keys: &'a str,
    /// Why there is no newer one, and since when.
    pub lost: Option<(&'a str, Duration)>,
}

/// What the keys do in a terminal.
pub const KEYS: &str = "q quits";
/// Models that are shown where there is room.
const MODELS_MAX: usize = 6;
/// Failures that are shown always, as far as there are so many.
const FAILURES_MIN: usize = 4;
/// Where figures begin.
const LABEL: usize = 10;

/// All of it, cut to the size.
pub fn draw(shown: &Shown<'_>, size: Size) -> Vec<Line> {
    let mut lines = vec![title(shown, size.columns)];
    if let Some((why, since)) = &shown.lost {
        lines.push(bad(format!("not reached for {}: {why}; trying on", age(since.as_secs_f64()))));
    }
    if let Some(view) = shown.view {
        lines.extend(view.alarms.iter().map(|alarm| bad((*alarm).to_owned())));
        lines.push(Vec::new());
        lines.extend(summary(view));
        let rows = size.rows.saturating_sub(lines.len());
        lines.extend(tables(view, Size { rows, ..size }));
    }
    lines.truncate(size.rows);
    lines.into_iter().map(|line| cut(line, size.columns)).collect()
}

fn title(shown: &Shown<'_>, columns: usize) -> Line {
    let mut line = vec![(Style::Strong, "tollgate".to_owned())];
    let mut about = format!(" {}", shown.gateway);
    let mut clock = String::new();
    if let Some(view) = shown.view {
        about = format!(" {}{about}", view.version);
        if let Some(up) = view.up_seconds {
            about += &format!("  up {}", age(up));
        }
        clock = format!("{}  ", time(&view.at.to_string()));
    }
    let right = format!("{clock}{}", shown.keys);
    let gap = columns.saturating_sub("tollgate".len() + about.chars().count() + right.len()).max(2);
    line.push((Style::Plain, about));
    line.push((Style::Faint, format!("{}{right}", " ".repeat(gap))));
    line
}

fn summary(view: &View) -> Vec<Line> {
    let requests = &view.requests_per_second;
    let failing = if requests.server > 0.0 { Style::Bad } else { Style::Strong };
    let count = |count: Option<f64>| count.map_or("-".into(), |count| format!("{count:.0}"));
    let tokens = view.tokens_per_second.iter().map(|(class, rate)| (&**class, per_second(*rate)));
    let refused = view.refused_per_second.iter().map(|(reason, rate)| (&**reason, per_second(*rate)));
    vec![
        row(
            "requests",
            17,
            [
                ("", per_second(requests.all()), Style::Strong),
                ("served", per_second(requests.ok), Style::Strong),
                ("4xx", per_second(requests.client), Style::Strong),
                ("failed", per_second(requests.server), failing),
            ],
        ),
        row(
            "now",
            17,
            [
                ("in flight", count(view.in_flight), Style::Strong),
                ("waiting", count(view.waiting), Style::Strong),
                ("holds", count(view.holds_open), Style::Strong),
                ("clients", count(view.connections), Style::Strong),
            ],
        ),
        row(
            "latency",
            34,
            [
                ("request ", quantiles(&view.request), Style::Strong),
                ("first byte", quantiles(&view.first_byte), Style::Strong),
            ],
        ),
        row(
            "ours",
            34,
            [
                ("overhead", quantiles(&view.overhead), Style::Strong),
                ("commit    ", quantiles(&view.commit), Style::Strong),
            ],
        ),
        row("money", 23, money(view)),
        row("tokens", 0, each(tokens)),
        row("refused", 0, each(refused)),
    ]
}

/// Figures with their names; what nothing happened of is a dash.
fn each<'a>(figures: impl Iterator<Item = (&'a str, String)>) -> Vec<(&'a str, String, Style)> {
    let mut all: Vec<_> = figures.map(|(name, figure)| (name, figure, Style::Strong)).collect();
    if all.is_empty() {
        all.push(("", "-".into(), Style::Faint));
    }
    all
}

fn money(view: &View) -> Vec<(&'static str, String, Style)> {
    let charged = view.charged_usd_per_minute;
    let mut cells = vec![("charged", format!("{} USD/min", usd(charged)), Style::Strong)];
    if let Some(cost) = view.cost_usd_per_minute {
        cells.push(("cost", format!("{} USD/min", usd(cost)), Style::Strong));
        if charged > 0.0 {
            let margin = 100.0 * (charged - cost) / charged;
            let style = if margin < 0.0 { Style::Bad } else { Style::Strong };
            cells.push(("margin", format!("{margin:.0} %"), style));
        }
    }
    cells
}

/// A label, and cells of a name and a figure, each of at least this width.
fn row<'a>(label: &str, width: usize, cells: impl IntoIterator<Item = (&'a str, String, Style)>) -> Line {
    let mut line = vec![(Style::Faint, format!("{label:<LABEL$}"))];
    for (name, figure, style) in cells {
        let named = if name.is_empty() { String::new() } else { format!("{name} ") };
        let gap = width.saturating_sub(named.chars().count() + figure.chars().count()).max(2);
        line.extend([(Style::Faint, named), (style, figure), (Style::Plain, " ".repeat(gap))]);
    }
    line
}

/// The pool, the models and the failures, in what room is left.
fn tables(view: &View, left: Size) -> Vec<Line> {
    // A blank line and a head before each.
    let failures = view.failures.len().clamp(1, FAILURES_MIN);
    let for_pool = left.rows.saturating_sub(2 + 2 + failures).max(1);
    let mut lines = pool(&view.upstreams, Size { rows: for_pool, ..left });
    let models = view.models.len().min(MODELS_MAX);
    if models > 0 && left.rows >= lines.len() + 2 + models + 2 + failures {
        lines.extend(MODELS.lines(view.models[..models].iter().map(model), left.columns));
    }
    let rows = left.rows.saturating_sub(lines.len() + 2);
    // What is no client's doing comes first, lest it be crowded out.
    let (clients, others): (Vec<&Failure>, _) =
        view.failures.iter().partition(|failure| failure.is_clients());
    let failures = others.into_iter().chain(clients).take(rows);
    lines.extend(FAILURES.lines(failures.map(failure), left.columns));
    if view.failures.is_empty() {
        lines.push(vec![(Style::Faint, "nothing yet".into())]);
    }
    lines
}

/// Every account, or if there is no room those in trouble first.
fn pool(upstreams: &[Upstream], size: Size) -> Vec<Line> {
    let mut order: Vec<&Upstream> = upstreams.iter().collect();
    let mut more = 0;
    if order.len() > size.rows {
        order.sort_by_key(|upstream| !is_in_trouble(upstream));
        order.truncate(size.rows.saturating_sub(1));
        more = upstreams.len() - order.len();
    }
    let mut lines = POOL.lines(order.into_iter().map(account), size.columns);
    if more > 0 {
        lines.push(vec![(Style::Faint, format!("and {more} more"))]);
    }
    lines
}

/// A table's head, and which of its columns stand to the right.
struct Table {
    head: &'static [&'static str],
    right: &'static [usize],
}

const POOL: Table = Table {
    head: &["ACCOUNT", "STATE", "IN FLIGHT", "OK", "FAILED", "LEAST FREE", "NOT USED"],
    right: &[2, 3, 4],
};
const MODELS: Table = Table { head: &["MODEL", "REQUESTS", "TOKENS", "USD/MIN"], right: &[1, 2, 3] };
const FAILURES: Table = Table {
    head: &["FAILED", "STATUS", "REQUEST", "WHY", "MODEL", "ACCOUNT", "TRIED", "AFTER", "CUSTOMER"],
    right: &[6, 7],
};

impl Table {
    /// A blank line, the head and the rows, with as many columns as there is room for.
    fn lines(&self, rows: impl Iterator<Item = (Style, Vec<String>)>, columns: usize) -> Vec<Line> {
        let (styles, mut rows): (Vec<Style>, Vec<Vec<String>>) = rows.unzip();
        let mut head = self.head;
        let mut text = layout(head, &rows, self.right);
        while head.len() > 1 && text.lines().any(|line| line.chars().count() > columns) {
            head = &head[..head.len() - 1];
            rows.iter_mut().for_each(|row| row.truncate(head.len()));
            text = layout(head, &rows, self.right);
        }
        let styles = std::iter::once(Style::Faint).chain(styles);
        let lines = text.lines().zip(styles).map(|(line, style)| vec![(style, line.to_owned())]);
        std::iter::once(Line::new()).chain(lines).collect()
    }
}

fn is_in_trouble(upstream: &Upstream) -> bool {
    &*upstream.stands.status != "open"
        || !upstream.stands.models_shut.is_empty()
        || upstream.failed_per_second > 0.0
}

fn account(upstream: &Upstream) -> (Style, Vec<String>) {
    let stands = &upstream.stands;
    let [state, least, shut] = said(stands);
    let cells = vec![
        stands.name.to_string(),
        state,
        stands.in_flight.to_string(),
        per_second(upstream.ok_per_second),
        per_second(upstream.failed_per_second),
        least,
        shut,
    ];
    (if is_in_trouble(upstream) { Style::Bad } else { Style::Plain }, cells)
}

fn model(model: &Model) -> (Style, Vec<String>) {
    let cells = vec![
        model.name.clone(),
        per_second(model.requests_per_second),
        per_second(model.tokens_per_second),
        usd(model.charged_usd_per_minute),
    ];
    (Style::Plain, cells)
}

fn failure(failure: &Failure) -> (Style, Vec<String>) {
    let tried = if failure.attempts > 0 { failure.attempts.to_string() } else { String::new() };
    let cells = vec![
        time(&failure.at.to_string()),
        failure.status.to_string(),
        failure.request_id.to_string(),
        failure.reason.to_string(),
        failure.model.to_string(),
        failure.upstream.as_deref().unwrap_or_default().to_owned(),
        tried,
        seconds(Duration::from_micros(failure.duration_us).as_secs_f64()),
        failure.customer.map(|customer| customer.to_string()).unwrap_or_default(),
    ];
    (if failure.is_clients() { Style::Plain } else { Style::Bad }, cells)
}

fn bad(text: String) -> Line {
    vec![(Style::Bad, text)]
}

/// No more characters than there are columns.
fn cut(line: Line, columns: usize) -> Line {
    let mut left = columns;
    let cut = line.into_iter().map(|(style, text)| {
        let text: String = text.chars().take(left).collect();
        left -= text.chars().count();
        (style, text)
    });
    cut.filter(|(_, text)| !text.is_empty()).collect()
}

/// The time of day of an RFC 3339 time.
fn time(at: &str) -> String {
    at.split_once('T').map_or(at, |(_, time)| time.get(..8).unwrap_or(time)).to_owned()
}

fn quantiles(latency: &Latency) -> String {
    let [p50, p99] = [latency.p50_seconds, latency.p99_seconds].map(|of| of.map_or("-".into(), seconds));
    format!("p50 {p50:<6}  p99 {p99}")
}

fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0} us", seconds * 1e6),
        ..0.01 => format!("{:.1} ms", seconds * 1e3),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        ..100.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

fn per_second(rate: f64) -> String {
    match rate {
        0.0 => "0/s".into(),
        ..10.0 => format!("{rate:.1}/s"),
        ..10_000.0 => format!("{rate:.0}/s"),
        ..10_000_000.0 => format!("{:.0}k/s", rate / 1e3),
        _ => format!("{:.0}M/s", rate / 1e6),
    }
}

fn usd(amount: f64) -> String {
    match amount {
        0.0 => "0".into(),
        ..0.01 => format!("{amount:.6}"),
        ..1.0 => format!("{amount:.4}"),
        _ => format!("{amount:.2}"),
    }
}

fn age(seconds: f64) -> String {
    let (minutes, hours, days) = (seconds / 60.0, seconds / 3_600.0, seconds / 86_400.0);
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", minutes.floor()),
        ..172_800.0 => format!("{:.0} h", hours.floor()),
        _ => format!("{:.0} days", days.floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::looks;
    use super::*;

    fn view() -> View {
        let (before, now) = looks();
        View::between(&before, &now)
    }

    fn text(shown: &Shown<'_>, size: Size) -> Vec<String> {
        let lines = draw(shown, size).into_iter();
        let line = |line: Line| line.into_iter().map(|(_, text)| text).collect::<String>();
        lines.map(|pieces| line(pieces).trim_end().to_owned()).collect()
    }

    /// As a terminal of the usual size shows it.
    const USUAL: &str = "\
tollgate 0.1.0 http://127.0.0.1:9180  up 10 s                  12:00:10  q quits
the last reload was refused: see the log

requests  104/s            served 101/s     4xx 1.0/s        failed 2.0/s
now       in flight 120    waiting 3        holds -          clients -
latency   request  p50 500 ms  p99 990 ms   first byte p50 -       p99 -
ours      overhead p50 -       p99 -        commit     p50 -       p99 -
money     charged 12.00 USD/min  cost 9.00 USD/min      margin 25 %
tokens    input 1200/s
refused   model_not_found 1.0/s

ACCOUNT   STATE              IN FLIGHT     OK  FAILED  LEAST FREE
openai-1  open                     120  100/s     0/s  40 % concurrency
openai-2  shut (credential)          0    0/s   2.0/s  100 % concurrency

MODEL        REQUESTS  TOKENS  USD/MIN
gpt-4o-mini     102/s  1200/s    12.00
other           1.0/s     0/s        0

FAILED    STATUS  REQUEST                               WHY
12:00:10  503     req_00000000000000000000000000000007  upstream_unavailable
";

    #[test]
    fn a_usual_terminal_shows_it_all() {
        let view = view();
        let shown = Shown { gateway: "http://127.0.0.1:9180", view: Some(&view), keys: KEYS, lost: None };
        let lines = text(&shown, Size { columns: 80, rows: 24 });
        assert_eq!(lines.join("\n"), USUAL.trim_end(), "\n{}", lines.join("\n"));
    }

    #[test]
    fn whatever_its_size_a_terminal_holds_it() {
        let mut view = view();
        let one = serde_json::to_value(&view.upstreams[0].stands).unwrap();
        for number in 0..40 {
            let mut stands = one.clone();
            stands["name"] = format!("account-{number}").into();
            let stands = serde_json::from_value(stands).unwrap();
            view.upstreams.push(Upstream { stands, ok_per_second: 1.0, failed_per_second: 0.0 });
        }
        let failure = view.failures[0].clone();
        view.failures.extend(std::iter::repeat_n(failure, 60));
        let lost = Some(("connection refused", Duration::from_secs(3)));
        let shown = Shown { gateway: "http://127.0.0.1:9180", view: Some(&view), keys: KEYS, lost };
        for columns in [0, 1, 10, 79, 80, 140, 300] {
            for rows in [0, 1, 5, 10, 24, 40, 100] {
                let lines = draw(&shown, Size { columns, rows });
                assert!(lines.len() <= rows, "{} lines in {rows}", lines.len());
                let width = |line: &Line| line.iter().map(|(_, text)| text.chars().count()).sum::<usize>();
                assert!(lines.iter().all(|line| width(line) <= columns), "{columns}");
            }
        }
        let lines = text(&shown, Size { columns: 140, rows: 40 });
        // What is in trouble is not what is left out, and failures have their place.
        assert!(lines.iter().any(|line| line.starts_with("openai-2 ")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("and ")), "{lines:#?}");
        let failed = lines.iter().filter(|line| line.contains("upstream_unavailable")).count();
        assert!(failed >= FAILURES_MIN, "{lines:#?}");
    }

    #[test]
    fn a_gateway_that_was_never_reached_is_told() {
        let shown = Shown {
            gateway: "http://h",
            view: None,
            keys: KEYS,
            lost: Some(("connection refused", Duration::from_secs(130))),
        };
        let lines = text(&shown, Size { columns: 80, rows: 24 });
        assert_eq!(lines[1..], ["not reached for 2 min: connection refused; trying on"]);
    }
}
