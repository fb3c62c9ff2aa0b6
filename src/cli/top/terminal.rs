//! The terminal: taken over while this lives, and given back as it was however that ends. One that hangs up ends
//! the process, as by default: there is nothing to give back.

use super::screen::{Line, Size, Style};
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{execute, queue};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufWriter, Stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Keys are looked for this often while nothing happens.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// The exit code of one that was ended by a second signal.
const KILLED: i32 = 1;

/// What the person at it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To look on.
    Look,
    /// To see it drawn anew: the size is another.
    Redraw,
    /// To end.
    Quit,
}

/// See the module.
pub struct Terminal {
    out: BufWriter<Stdout>,
    ended: Arc<AtomicBool>,
}

impl Terminal {
    /// Takes it over.
    ///
    /// # Errors
    /// When standard output is no terminal, or one that does not do what is asked.
    pub fn take() -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Where keys are looked for without end, as in a terminal that is gone, the second ends it.
            signal_hook::flag::register_conditional_shutdown(signal, KILLED, Arc::clone(&ended))?;
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        terminal::enable_raw_mode()?;
        // From here on it is given back.
        let mut terminal = Terminal { out: BufWriter::new(io::stdout()), ended };
        execute!(terminal.out, EnterAlternateScreen, Hide, DisableLineWrap)?;
        Ok(terminal)
    }

    /// How much there is room for.
    ///
    /// # Errors
    /// As the terminal says.
    pub fn size() -> io::Result<Size> {
        let (columns, rows) = terminal::size()?;
        Ok(Size { columns: usize::from(columns), rows: usize::from(rows) })
    }

    /// Shows lines in the place of those before.
    ///
    /// # Errors
    /// As the terminal says.
    pub fn show(&mut self, lines: &[Line]) -> io::Result<()> {
        let Size { columns, rows } = Self::size()?;
        queue!(self.out, BeginSynchronizedUpdate)?;
        for (row, line) in (0..).zip(lines) {
            queue!(self.out, MoveTo(0, row))?;
            for (style, text) in line {
                match style {
                    Style::Plain => {}
                    Style::Faint => queue!(self.out, SetAttribute(Attribute::Dim))?,
                    Style::Strong => queue!(self.out, SetAttribute(Attribute::Bold))?,
                    Style::Bad => queue!(self.out, SetForegroundColor(Color::Red))?,
                }
                queue!(self.out, Print(text), SetAttribute(Attribute::Reset), ResetColor)?;
            }
            // Behind a full line the cursor stands on its last character.
            if line.iter().map(|(_, text)| text.chars().count()).sum::<usize>() < columns {
                queue!(self.out, Clear(ClearType::UntilNewLine))?;
            }
        }
        let below = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        if usize::from(below) < rows {
            queue!(self.out, MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        }
        execute!(self.out, EndSynchronizedUpdate)
    }

    /// Waits a little for a wish.
    ///
    /// # Errors
    /// When there is nobody at it any more.
    pub fn wish(&self) -> io::Result<Wish> {
        // A signal breaks the wait off.
        let came = match event::poll(KEYS_EVERY) {
            Err(why) if why.kind() == io::ErrorKind::Interrupted => Ok(false),
            polled => polled,
        };
        let wish = if came? { wished(&event::read()?) } else { Wish::Look };
        Ok(if self.ended.load(Ordering::Relaxed) { Wish::Quit } else { wish })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that is gone cannot be given back.
        let _ = execute!(self.out, EnableLineWrap, Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn wished(event: &Event) -> Wish {
    match event {
        Event::Key(KeyEvent { kind: KeyEventKind::Release, .. }) => Wish::Look,
        Event::Key(KeyEvent { code: KeyCode::Char('q' | 'Q') | KeyCode::Esc, .. }) => Wish::Quit,
        Event::Key(KeyEvent { code: KeyCode::Char('c'), modifiers, .. })
            if modifiers.contains(KeyModifiers::CONTROL) =>
        {
            Wish::Quit
        }
        Event::Resize(..) => Wish::Redraw,
        _ => Wish::Look,
    }
}
