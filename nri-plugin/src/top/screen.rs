//! On a terminal: drawn anew after each look and each key.

use std::io::{IsTerminal, Stdout, Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};
use nix::sys::signal::{SigSet, Signal};

use super::document::Snapshot;
use super::look;
use super::rates::Rates;
use super::show::{View, lines};
use crate::apply::client::Daemon;
use crate::cli::{Sort, TopArgs};

/// How long a key may wait for being seen while nothing comes from the daemon.
const TICK: Duration = Duration::from_millis(100);
/// How many rows page up and page down go.
const PAGE: usize = 10;
/// The columns that can be sorted by, from left to right.
const COLUMNS: [Sort; 5] = [Sort::Container, Sort::Policy, Sort::Rate, Sort::Total, Sort::Last];

/// What comes of a key.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    End,
    Draw,
    Nothing,
}

/// The terminal as it was, once this is dropped.
struct Screen(Stdout);

impl Screen {
    fn open() -> std::io::Result<Self> {
        enable_raw_mode()?;
        let mut screen = Self(stdout());
        execute!(screen.0, EnterAlternateScreen, Hide, DisableLineWrap)?;
        Ok(screen)
    }

    fn draw(&mut self, rates: &Rates, view: &View) -> std::io::Result<()> {
        queue!(self.0, MoveTo(0, 0), Clear(ClearType::All))?;
        for (line, row) in lines(rates, view).into_iter().zip(0..) {
            queue!(self.0, MoveTo(0, row))?;
            write!(self.0, "{line}")?;
        }
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let _as_it_is = execute!(stdout(), EnableLineWrap, Show, LeaveAlternateScreen);
    let _as_it_is = disable_raw_mode();
}

/// Waits for a signal that ends: then this is true. Of who does not look, since it reads from a terminal that is gone, the
/// process ends after a while.
fn ending() -> Result<Arc<AtomicBool>, String> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(|error| format!("signals: {error}"))?;
    let ends = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&ends);
    std::thread::spawn(move || {
        let code = signals.wait().map_or(1, |signal| 128_i32.saturating_add(signal as i32));
        tell.store(true, Ordering::Relaxed);
        std::thread::sleep(TICK.saturating_mul(10));
        restore();
        std::process::exit(code);
    });
    Ok(ends)
}

/// Shows until a key or a signal ends it.
pub(super) fn run(args: &TopArgs) -> Result<(), String> {
    if !std::io::stdin().is_terminal() {
        return Err("there is a terminal to show on, and none to read keys from: use --once".to_owned());
    }
    let mut daemon = Daemon::reach(&args.admin_socket)?;
    let first = look(&mut daemon)?;
    let ends = ending()?; // before other threads begin: they are to leave those signals to it
    // no more than one waits, should nobody draw
    let (send, looks) = sync_channel(1);
    let (stop, stopped) = channel::<()>();
    let interval = args.interval;
    // by itself, so that a daemon that takes its time does not keep keys from being seen
    let looking = std::thread::spawn(move || keep_looking(&mut daemon, interval, &send, &stopped));
    let shown = show(args, &first, &looks, &ends);
    drop(stop);
    drop(looking); // it may wait for the daemon, and nobody waits for it
    shown
}

fn keep_looking(
    daemon: &mut Daemon,
    interval: Duration,
    send: &SyncSender<Result<Snapshot, String>>,
    stopped: &Receiver<()>,
) {
    let mut wait = interval.min(Duration::from_secs(1)); // the first rates soon
    while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let looked = look(daemon);
        let failed = looked.is_err();
        if send.send(looked).is_err() || failed {
            return;
        }
        wait = interval;
    }
}

fn show(
    args: &TopArgs,
    first: &Snapshot,
    looks: &Receiver<Result<Snapshot, String>>,
    ends: &AtomicBool,
) -> Result<(), String> {
    let terminal = |error: std::io::Error| format!("the terminal: {error}");
    let (width, height) = known(size().map_err(terminal)?);
    let mut view = View { sort: args.sort, reverse: false, above: 0, width, height };
    let mut before = first.clone();
    let mut rates = Rates::new(first, first);
    let mut screen = Screen::open().map_err(terminal)?;
    screen.draw(&rates, &view).map_err(terminal)?;
    while !ends.load(Ordering::Relaxed) {
        let mut draw = false;
        match looks.try_recv() {
            Ok(Ok(now)) => {
                rates = Rates::new(&before, &now);
                before = now;
                draw = true;
            }
            Ok(Err(problem)) => return Err(problem),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err("nobody looks any more".to_owned()),
        }
        while poll(if draw { Duration::ZERO } else { TICK }).map_err(terminal)? {
            match read().map_err(terminal)? {
                Event::Resize(width, height) => {
                    (view.width, view.height) = known((width, height));
                    draw = true;
                }
                Event::Key(key) => match press(&mut view, key, rates.denials.len()) {
                    Next::End => return Ok(()),
                    Next::Draw => draw = true,
                    Next::Nothing => {}
                },
                _ => {}
            }
        }
        if draw {
            screen.draw(&rates, &view).map_err(terminal)?;
        }
    }
    Ok(())
}

/// A terminal that does not know its size, such as that of a serial line, says 0: it is taken for the usual one.
const fn known(size: (u16, u16)) -> (u16, u16) {
    match size {
        (0, _) | (_, 0) => (80, 24),
        known => known,
    }
}

/// `rows`: how many there are.
fn press(view: &mut View, key: KeyEvent, rows: usize) -> Next {
    if key.kind == KeyEventKind::Release {
        return Next::Nothing;
    }
    let last = rows.saturating_sub(1);
    let column = COLUMNS.iter().position(|column| *column == view.sort).unwrap_or_default();
    let to = |column: usize| COLUMNS.get(column).copied().unwrap_or_default();
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Next::End,
        KeyCode::Char('q') | KeyCode::Esc => return Next::End,
        KeyCode::Char('r') => view.reverse = !view.reverse,
        KeyCode::Left => view.sort = to(column.saturating_sub(1)),
        KeyCode::Right => view.sort = to(column.saturating_add(1).min(COLUMNS.len().saturating_sub(1))),
        KeyCode::Up => view.above = view.above.saturating_sub(1),
        KeyCode::Down => view.above = view.above.saturating_add(1).min(last),
        KeyCode::PageUp => view.above = view.above.saturating_sub(PAGE),
        KeyCode::PageDown => view.above = view.above.saturating_add(PAGE).min(last),
        KeyCode::Home => view.above = 0,
        _ => return Next::Nothing,
    }
    Next::Draw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_scroll_and_end() {
        let mut view = View { sort: Sort::Rate, reverse: false, above: 0, width: 80, height: 24 };
        let mut press = |code: KeyCode| {
            let next = super::press(&mut view, KeyEvent::new(code, KeyModifiers::NONE), 3);
            (next, view.sort, view.reverse, view.above)
        };
        use KeyCode::{Char, Down, Esc, Left, PageDown, PageUp, Right, Up};
        assert_eq!(press(Right), (Next::Draw, Sort::Total, false, 0));
        assert_eq!(press(Right), (Next::Draw, Sort::Last, false, 0));
        assert_eq!(press(Right), (Next::Draw, Sort::Last, false, 0));
        assert_eq!(press(Left), (Next::Draw, Sort::Total, false, 0));
        assert_eq!(press(Char('r')), (Next::Draw, Sort::Total, true, 0));
        assert_eq!(press(Up), (Next::Draw, Sort::Total, true, 0));
        assert_eq!(press(Down), (Next::Draw, Sort::Total, true, 1));
        assert_eq!(press(PageDown), (Next::Draw, Sort::Total, true, 2));
        assert_eq!(press(PageUp), (Next::Draw, Sort::Total, true, 0));
        assert_eq!(press(Char('x')).0, Next::Nothing);
        assert_eq!(press(Esc).0, Next::End);
        assert_eq!(press(Char('q')).0, Next::End);
        let control = KeyEvent::new(Char('c'), KeyModifiers::CONTROL);
        assert_eq!(super::press(&mut view, control, 3), Next::End);
        let released = KeyEvent::new_with_kind(Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(super::press(&mut view, released, 3), Next::Nothing);
    }
}
