//! One table in Markdown: a row for each server, a column for each workload, and how many times as fast Herald was there at its default.

use std::fmt::Write as _;

use bench::report::Run;

/// Row, column, and what came of it.
pub(crate) type Result = (usize, usize, std::result::Result<Run, String>);

/// Writes it. The first row is what the others are compared with.
pub(crate) fn write(columns: &[String], rows: &[String], results: &[Result], missing: &[String], runs: u16) -> String {
    let used: Vec<usize> = (0..columns.len()).filter(|column| results.iter().any(|(_, at, _)| at == column)).collect();
    let find =
        |row: usize, column: usize| results.iter().find(|(r, c, _)| (*r, *c) == (row, column)).map(|(.., run)| run);
    let mut out = String::new();
    // Writing to memory does not fail.
    let _ = writeln!(out, "{}. {}\n", machine(), versions(results));
    let _ = write!(out, "| confirmed when; priorities |");
    for column in &used {
        let _ = write!(out, " {} |", heading(&columns[*column]));
    }
    let _ = write!(out, "\n| --- |");
    used.iter().for_each(|_| out.push_str(" --- |"));
    out.push('\n');
    for (row, name) in rows.iter().enumerate() {
        let kept = results.iter().find_map(|(at, _, run)| (*at == row).then(|| run.as_ref().ok()).flatten());
        let kept = kept.map_or("", |run| if run.report.priorities_kept { "; kept" } else { "; none" });
        let _ = write!(out, "| {}{kept} |", name.replace(" (", ", ").replace(')', ""));
        for column in &used {
            let base = find(0, *column).and_then(|run| run.as_ref().ok()).filter(|_| row > 0);
            let cell = find(row, *column).map_or_else(String::new, |result| match result {
                Ok(run) => cell(run, base),
                Err(_) => "failed".to_owned(),
            });
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "\nMedian of {runs} interleaved run{}. ×: Herald at its default (synced) is so many times as fast as this one; of latency, so many \
         times as long p50 and p99 are there.",
        if runs == 1 { "" } else { "s" }
    );
    for text in missing {
        let _ = writeln!(out, "Missing: {text}.");
    }
    for (row, column, result) in results {
        match result {
            Err(error) => {
                let _ = writeln!(out, "Failed: {}, {}: {error}", rows[*row], columns[*column]);
            }
            Ok(run) if !run.report.verified => {
                let _ = writeln!(
                    out,
                    "Not as it should be: {}, {}: {:?}",
                    rows[*row], columns[*column], run.report.verdict
                );
            }
            Ok(_) => {}
        }
    }
    out
}

fn heading(title: &str) -> String {
    match title.split_once(" at ") {
        Some((name, rate)) => format!("{name} at {rate}: p50, p99 ms"),
        None if title == "backlog" => "backlog: drain, MB while waiting, peak MB, up again".to_owned(),
        None if title == "fan-out to 1000" => format!("{title}, deliveries/s, peak MB"),
        None if title.starts_with("fan-out") => format!("{title}, deliveries/s"),
        None if title.starts_with("work, prefetch 256") => format!("{title}, /s, CPU µs"),
        None => format!("{title}, /s"),
    }
}

fn cell(run: &Run, base: Option<&Run>) -> String {
    let report = &run.report;
    if report.rate.is_some() {
        let Some((_, latency)) = run.latency() else { return String::new() };
        let times = base.and_then(|base| base.latency()).map_or_else(String::new, |(_, base)| {
            format!(" (×{}, ×{})", ratio(latency.p50 / base.p50), ratio(latency.p99 / base.p99))
        });
        return format!("{:.2}, {:.2}{times}", latency.p50 / 1e3, latency.p99 / 1e3);
    }
    let times =
        base.map_or_else(String::new, |base| format!(" (×{})", ratio(base.report.per_second / report.per_second)));
    let mut text = format!("{}{times}", short(report.per_second));
    if let (Some(peak), Some(recovered)) = (report.server_peak_mb, report.recovered_ms) {
        let waiting = report.server_waiting_mb.unwrap_or(peak);
        let _ = write!(text, ", {waiting:.0}, {peak:.0}, {:.1} s", recovered / 1e3);
        if report.lost > 0 {
            let _ = write!(text, ", lost {} of {}", report.lost, report.events);
        }
    } else if let (Some(peak), "fan-out", 1000) = (report.server_peak_mb, report.workload, report.subscriptions) {
        let _ = write!(text, ", {peak:.0}");
    } else if let (Some(cpu), Some(256), "work") = (report.server_cpu_us, report.prefetch, report.workload) {
        let _ = write!(text, ", {cpu:.1}");
    }
    if report.verified { text } else { format!("**{text}**") }
}

fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e5 => format!("{:.0}k", n / 1e3),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

fn ratio(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}") } else { format!("{ratio:.1}") }
}

fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo");
    let memory =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<f64>().ok());
    format!(
        "{} × {}, {:.0} GiB, Linux {}; events of 256 bytes, priorities 0 to 6; client and server on this machine",
        std::thread::available_parallelism().map_or(1, usize::from),
        model.map_or("?", |(_, model)| model.trim()),
        memory.unwrap_or(0.0) / f64::from(1 << 20),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn versions(results: &[Result]) -> String {
    let mut all: Vec<String> = Vec::new();
    for run in results.iter().filter_map(|(.., result)| result.as_ref().ok()) {
        let text = format!("{} {}", run.report.server, run.report.version);
        if !all.contains(&text) {
            all.push(text);
        }
    }
    format!("{}.", all.join(", "))
}
