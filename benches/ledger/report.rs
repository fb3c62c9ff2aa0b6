//! Figures: times by percentile, sizes, memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Why a measurement has no figures.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Prints one figure.
pub fn line(what: &str, figure: &str) {
    println!("{what:<40} {figure}");
}

/// The middle and the tail.
pub fn percentiles(took: &mut [Duration]) -> String {
    if took.is_empty() {
        return "no reads".into();
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    format!("p50 {:.2?}, p99 {:.2?}", at(50), at(99))
}

/// Bytes for the eye.
pub fn mebibytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}

/// What this process has in memory.
pub fn resident() -> Result<u64, Failed> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}

/// Bytes below a folder, by the ending of files.
pub fn sizes(folder: &Path) -> Result<BTreeMap<String, u64>, Failed> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let (path, meta) = (entry.as_ref().map_err(ToString::to_string)?.path(), entry?.metadata()?);
        if meta.is_dir() && path.ends_with("journal") {
            for (kind, bytes) in self::sizes(&path)? {
                *sizes.entry(kind).or_default() += bytes;
            }
        } else if meta.is_file() && folder.ends_with("journal") {
            let kind = path.extension().map_or("other".into(), |kind| kind.to_string_lossy().into_owned());
            *sizes.entry(format!("journal/*.{kind}")).or_default() += meta.len();
        }
    }
    Ok(sizes)
}
