//! Line plots as SVG text. Colours are CSS variables, so that the page decides about light and dark.

use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const SIZE: (u32, u32) = (900, 280);

/// Room for half of the last label.
const RIGHT: i32 = 28;

/// Radius of a point without neighbours.
const DOT: i32 = 2;

/// Rows of words above a plot, for marks that stand close; one more has no word.
const MARK_ROWS: usize = 3;
const MARK_ROW_HEIGHT: i32 = 14;

/// Stand-ins that are replaced by CSS variables in the text.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const MARK: RGBColor = RGBColor(3, 3, 3);
pub(super) const LINES: [RGBColor; 5] =
    [RGBColor(11, 1, 1), RGBColor(12, 1, 1), RGBColor(13, 1, 1), RGBColor(14, 1, 1), RGBColor(15, 1, 1)];

/// One line: its name, and its points, in pieces that nothing joins.
pub(super) struct Line {
    pub(super) name: String,
    pieces: Vec<Vec<(f64, f64)>>,
}

impl Line {
    /// Where there is no value the line breaks.
    pub(super) fn new(name: &str, points: impl IntoIterator<Item = (f64, Option<f64>)>) -> Line {
        let mut pieces = vec![Vec::new()];
        for (x, y) in points {
            match (y, pieces.last_mut()) {
                (Some(y), Some(piece)) => piece.push((x, y)),
                _ => pieces.push(Vec::new()),
            }
        }
        pieces.retain(|piece| !piece.is_empty());
        Line { name: name.to_owned(), pieces }
    }

    fn points(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.pieces.iter().flatten()
    }
}

pub(super) struct Plot<'a> {
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    pub(super) x_max: f64,
    pub(super) lines: Vec<Line>,
    /// Upright lines with a word.
    pub(super) marks: Vec<(f64, String)>,
    pub(super) x_label: fn(&f64) -> String,
    pub(super) is_logarithmic: bool,
    /// Fill below the first line.
    pub(super) is_filled: bool,
}

impl Plot<'_> {
    /// `None`: there is nothing to draw.
    pub(super) fn svg(&self) -> Option<String> {
        let values = || self.lines.iter().flat_map(Line::points).map(|(_, y)| *y);
        let most = values().fold(0.0, f64::max);
        if values().count() < 2 || most <= 0.0 {
            return None;
        }
        let mut text = String::new();
        let drawn = if self.is_logarithmic {
            let least = values().filter(|y| *y > 0.0).fold(most, f64::min);
            let range = 10f64.powf(least.log10().floor())..10f64.powf((most * 1.001).log10().ceil());
            self.draw(&mut text, range.log_scale())
        } else {
            self.draw(&mut text, 0.0..most * 1.1)
        };
        drawn.ok()?;
        Some(with_variables(&text))
    }

    fn draw<Y>(&self, text: &mut String, y: Y) -> Result<(), Box<dyn std::error::Error>>
    where
        Y: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .margin_top(8 + MARK_ROW_HEIGHT * self.mark_rows() as i32)
            .margin_right(RIGHT)
            .x_label_area_size(38)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..self.x_max.max(1e-6), y)?;
        let font = ("sans-serif", 13).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(font.clone())
            .x_desc(self.x_name)
            .y_desc(self.y_name)
            .x_labels(11)
            .y_labels(6)
            .x_label_formatter(&self.x_label)
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        let (_, pixels) = chart.plotting_area().get_pixel_range();
        let (left, _) = chart.plotting_area().get_base_pixel();
        let width = f64::from(SIZE.0) - f64::from(left) - f64::from(RIGHT);
        for ((at, word), row) in self.marks.iter().zip(self.rows()) {
            if !(0.0..=self.x_max).contains(at) {
                continue;
            }
            let x = left + (at / self.x_max * width) as i32;
            let Some(row) = row else {
                root.draw(&PathElement::new(vec![(x, pixels.start), (x, pixels.end)], MARK.stroke_width(1)))?;
                continue;
            };
            let y = pixels.start - MARK_ROW_HEIGHT * row as i32;
            root.draw(&PathElement::new(vec![(x, y - 8), (x, pixels.end)], MARK.stroke_width(1)))?;
            let style = ("sans-serif", 12).into_font().color(&MARK).pos(Pos::new(HPos::Left, VPos::Bottom));
            root.draw(&Text::new(word.clone(), (x + 2, y - 3), style))?;
        }
        if self.is_filled
            && let Some(line) = self.lines.first()
        {
            for piece in &line.pieces {
                chart.draw_series(AreaSeries::new(piece.iter().copied(), 0.0, LINES[0].mix(0.15)))?;
            }
        }
        for (line, color) in self.lines.iter().zip(LINES) {
            for piece in &line.pieces {
                match piece[..] {
                    // A line of one point is not seen.
                    [point] => chart.draw_series([Circle::new(point, DOT, color.filled())])?,
                    _ => chart.draw_series(LineSeries::new(piece.iter().copied(), color.stroke_width(2)))?,
                };
            }
        }
        root.present()?;
        Ok(())
    }
}

impl Plot<'_> {
    /// The row of each mark's word, so that no two words lie on each other.
    fn rows(&self) -> Vec<Option<usize>> {
        let mut ends = [f64::MIN; MARK_ROWS];
        let place = |(at, word): &(f64, String)| {
            let x = at / self.x_max.max(1e-6) * f64::from(SIZE.0);
            let row = ends.iter().position(|end| *end <= x)?;
            // The widest letters of twelve pixels.
            ends[row] = x + 7.5 * word.chars().count() as f64 + 6.0;
            Some(row)
        };
        self.marks.iter().map(place).collect()
    }

    fn mark_rows(&self) -> usize {
        self.rows().into_iter().flatten().max().map_or(1, |row| row + 1)
    }
}

fn with_variables(text: &str) -> String {
    let mut text = text
        .replace("#010101", "var(--ink)")
        .replace("#020202", "var(--grid)")
        .replace("#030303", "var(--mark)");
    for (index, RGBColor(red, green, blue)) in LINES.into_iter().enumerate() {
        text = text.replace(&format!("#{red:02X}{green:02X}{blue:02X}"), &format!("var(--line-{index})"));
    }
    // The page gives the width.
    let (width, height) = SIZE;
    text.replacen(&format!("width=\"{width}\" height=\"{height}\""), "role=\"img\"", 1)
}

/// A number as short as it can be read.
pub(super) fn short(value: f64) -> String {
    let trimmed = |value: f64, unit: &str| {
        let text = format!("{value:.1}");
        format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
    };
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 1.0 => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        large if large >= 1e6 => trimmed(value / 1e6, " M"),
        large if large >= 1e4 => trimmed(value / 1e3, " k"),
        hundreds if hundreds >= 100.0 => format!("{value:.0}"),
        _ => trimmed(value, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.05, "0.05"), (1.0, "1"), (12.5, "12.5"), (20_000.0, "20 k"), (1.5e6, "1.5 M")]
        {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn words_of_marks_do_not_lie_on_each_other() {
        let marks = [0.0, 1.0, 1.1, 1.2, 30.0].map(|at| (at, "command".to_owned())).to_vec();
        let x_label = |value: &f64| short(*value);
        let (lines, is_logarithmic, is_filled) = (Vec::new(), false, false);
        let plot =
            Plot { x_name: "x", y_name: "y", x_max: 40.0, lines, marks, x_label, is_logarithmic, is_filled };
        assert_eq!(plot.rows(), [Some(0), Some(1), Some(2), None, Some(0)]);
    }

    fn plot(line: Line, is_logarithmic: bool) -> Plot<'static> {
        Plot {
            x_name: "x",
            y_name: "y",
            x_max: line.points().last().map_or(1.0, |(x, _)| *x),
            lines: vec![line],
            marks: vec![(0.5, "here".to_owned())],
            x_label: |value| short(*value),
            is_logarithmic,
            is_filled: !is_logarithmic,
        }
    }

    #[test]
    fn a_line_breaks_where_there_is_no_value() {
        let ys =
            [None, Some(1.0), Some(2.0), None, None, Some(3.0), None, Some(4.0), Some(5.0), Some(6.0), None];
        let points = || ys.into_iter().enumerate().map(|(x, y)| (x as f64, y));
        let drawn = |what: &str, line: Line, is_logarithmic| {
            let svg = plot(line, is_logarithmic).svg().unwrap();
            svg.lines().filter(|line| line.contains(what) && line.contains("--line-0")).count()
        };
        for is_logarithmic in [true, false] {
            assert_eq!(drawn("<polyline", Line::new("a", points()), is_logarithmic), 2);
            assert_eq!(drawn("<circle", Line::new("a", points()), is_logarithmic), 1);
            let whole = || points().filter(|(_, y)| y.is_some());
            assert_eq!(drawn("<polyline", Line::new("a", whole()), is_logarithmic), 1);
            assert_eq!(drawn("<circle", Line::new("a", whole()), is_logarithmic), 0);
        }
    }

    #[test]
    fn colours_are_the_pages() {
        let mut plot = plot(Line::new("a", [(0.0, Some(1.0)), (1.0, Some(2.0))]), true);
        let svg = plot.svg().unwrap();
        assert!(svg.contains("var(--line-0)") && svg.contains("var(--ink)") && !svg.contains("#01"), "{svg}");
        plot.lines.clear();
        assert_eq!(plot.svg(), None);
    }
}
