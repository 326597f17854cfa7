//! What the demonstration prints: calm, and coloured only on a terminal that wants colours.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
};

/// Colours by their ANSI codes.
const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Where everything is printed. Every call is seen at once.
pub(super) struct Screen<'o> {
    out: &'o mut dyn Write,
    colours: bool,
}

impl<'o> Screen<'o> {
    pub(super) fn new(out: &'o mut impl Write) -> Self {
        let colours = io::stdout().is_terminal()
            && env::var_os("NO_COLOR").is_none()
            && env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
        Self { out, colours }
    }

    /// The head of a part.
    pub(super) fn title(&mut self, text: &str) -> io::Result<()> {
        let text = self.paint(BOLD, text);
        self.write(&format!("\n{text}\n\n"))
    }

    /// A sentence of its own.
    pub(super) fn paragraph(&mut self, text: &str) -> io::Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// A command, as typed on a machine.
    pub(super) fn command(&mut self, machine: &str, text: &str) -> io::Result<()> {
        let prompt = self.paint(CYAN, &format!("{machine:>8}$"));
        self.write(&format!("{prompt} {text}\n"))
    }

    /// What a command answered.
    pub(super) fn dim(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = text
            .lines()
            .map(|line| self.paint(DIM, &format!("          {}", line.trim_end())))
            .collect();
        self.write(&format!("{}\n", lines.join("\n")))
    }

    /// Lines as they are.
    pub(super) fn lines(&mut self, text: &str) -> io::Result<()> {
        self.write(&format!("{}\n\n", text.trim_end()))
    }

    /// The good end.
    pub(super) fn good(&mut self, text: &str) -> io::Result<()> {
        let text = self.paint(GREEN, text);
        self.write(&format!("{text}\n"))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}
