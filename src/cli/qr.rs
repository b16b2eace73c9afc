//! QR codes for a terminal: two modules a character, dark on light whatever the terminal's colours.

use anyhow::Context;
use qrcode::{Color, EcLevel, QrCode};

/// Draws a text.
pub(super) fn draw(text: &str) -> anyhow::Result<String> {
    const QUIET: i32 = 2;
    let code = QrCode::with_error_correction_level(text, EcLevel::M).context("the link is too long for a QR code")?;
    let width = code.width() as i32;
    let dark = |x: i32, y: i32| (0..width).contains(&x) && (0..width).contains(&y) && code[(x as usize, y as usize)] == Color::Dark;
    let mut out = String::new();
    for y in (-QUIET..width + QUIET).step_by(2) {
        out.push_str("  \x1b[30;107m");
        for x in -QUIET..width + QUIET {
            out.push(match (dark(x, y), dark(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        out.push_str("\x1b[0m\n");
    }
    Ok(out)
}
