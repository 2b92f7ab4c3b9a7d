//! An SVG chart of latency over percentile.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::*;

use crate::Error;

/// One curve.
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// The latencies in nanoseconds.
    pub latency: &'a Histogram<u64>,
}

/// The number of points on a curve per factor of ten.
const POINTS: usize = 40;

/// Writes the curves to a file. Each additional nine of the percentile takes the same width; the time axis is logarithmic.
///
/// # Errors
/// There is nothing to draw, or the file cannot be written.
pub fn write(file: &Path, title: &str, curves: &[Curve<'_>]) -> Result<(), Error> {
    let text = svg(title, curves)?;
    std::fs::write(file, text).map_err(Error::io(format!("cannot write {}", file.display())))
}

/// Renders the curves as SVG text.
///
/// # Errors
/// There is nothing to draw.
pub fn svg(title: &str, curves: &[Curve<'_>]) -> Result<String, Error> {
    let curves: Vec<&Curve<'_>> = curves.iter().filter(|curve| !curve.latency.is_empty()).collect();
    let longest = curves.iter().map(|curve| curve.latency.len()).max();
    let longest = longest.ok_or_else(|| Error::Options("there are no latencies to draw".to_owned()))?;
    let mut text = String::new();
    draw(&mut text, title, &curves, longest).map_err(|error| Error::Options(format!("cannot draw: {error}")))?;
    Ok(text)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(text: &mut String, title: &str, curves: &[&Curve<'_>], longest: u64) -> Drawn {
    // Nines: 0 is the fastest, 1 is p90, 2 is p99; the slowest of n is at log10(n).
    let nines = (longest as f64).log10().clamp(1.0, 9.0);
    let ms = |nanos: u64| nanos.max(1) as f64 / 1e6;
    let slowest = curves.iter().map(|curve| ms(curve.latency.max())).fold(0.0, f64::max);
    let fastest = curves.iter().map(|curve| ms(curve.latency.value_at_quantile(0.0))).fold(f64::INFINITY, f64::min);
    let root = SVGBackend::with_string(text, (960, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..nines, (fastest * 0.8..slowest * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency, ms")
        .x_labels(10)
        .x_label_formatter(&|nines| percentile(*nines))
        .y_label_formatter(&|ms| duration(*ms))
        .light_line_style(WHITE)
        .draw()?;
    for (at, curve) in curves.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        let last = (curve.latency.len() as f64).log10().min(nines);
        let steps = (last * POINTS as f64).ceil().max(1.0) as usize;
        let points = (0..=steps).map(|step| {
            let nines = last * step as f64 / steps as f64;
            (nines, ms(curve.latency.value_at_quantile(1.0 - 10_f64.powf(-nines))))
        });
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    root.present()?;
    Ok(())
}

/// `p99` for two nines.
fn percentile(nines: f64) -> String {
    let percent = 100.0 - 10_f64.powf(2.0 - nines);
    let digits = (nines - 2.0).ceil().max(0.0) as usize;
    format!("p{percent:.digits$}")
}

fn duration(ms: f64) -> String {
    if ms < 0.1 {
        format!("{ms:.3}")
    } else if ms < 10.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_become_an_svg() {
        let mut latency = crate::driver::histogram().unwrap();
        (1..=10_000_u64).for_each(|n| latency.saturating_record(n * 1000));
        let curve = Curve { name: "synced", latency: &latency };
        let text = svg("latency at 5000/s", &[curve]).unwrap();
        for part in ["<svg", "synced", "p99.9", "latency at 5000/s", "polyline"] {
            assert!(text.contains(part), "{part}");
        }
        let none = crate::driver::histogram().unwrap();
        assert!(svg("", &[Curve { name: "none", latency: &none }]).is_err());
    }

    #[test]
    fn percentiles_are_named_by_their_nines() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(percentile), ["p0", "p90", "p99", "p99.9", "p99.99"]);
    }
}
