//! `isthmus top`: the same as `stat`, all the time, on the whole terminal.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_proto::admin::v1 as wire;
use isthmus_proto::admin::v1::look_event::Event;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyModifiers};
use ratatui::layout::Constraint;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Cell, Row as Line, Table};
use tokio::sync::mpsc;

use super::rates::{By, Rates, Row};
use super::stat::{HEAD, cells};
use super::{asked, next};
use crate::connect;
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::Format;

/// Rates look back so far: long enough to be steady, short enough to follow.
const WINDOW: Duration = Duration::from_secs(5);
/// How often the keyboard is looked at.
const KEYS_EVERY: Duration = Duration::from_millis(100);
const LONGEST: u32 = 3600;

/// Watch rates, success and latencies on the whole terminal.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus top\n  \
    isthmus top shop --by edge\n\n\
    KEYS: s services, e edges, l sites (the link), c callers, q quit. For pipelines: isthmus stat --json.")]
pub(crate) struct Args {
    /// NAMESPACE/WORKLOAD, or NAMESPACE: whose proxies measure; by default all that you may see.
    of: Option<String>,
    #[arg(long, value_enum, default_value = "service", value_name = "WHAT")]
    by: By,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    finish(connect::block_on(top(args, operator)), Format::Table)
}

async fn top(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("isthmus top needs a terminal", "isthmus stat, or isthmus stat --json"));
    }
    let of = args.of.clone().unwrap_or_default();
    let request = wire::LookRequest { of, passing: None, edges: true, lasts_seconds: LONGEST };
    let mut events = connect::look(operator, request).await?;
    let keys = keys();
    let mut terminal = ratatui::try_init().map_err(|error| Failure::plain(format!("this terminal: {error}")))?;
    let watched = watch(&mut terminal, &args, &mut events, keys).await;
    ratatui::restore();
    watched
}

/// A thread that ends with its reader; a terminal cannot be read without waiting.
fn keys() -> mpsc::Receiver<KeyCode> {
    let (send, receive) = mpsc::channel(8);
    std::thread::spawn(move || {
        while !send.is_closed() {
            match event::poll(KEYS_EVERY).and_then(|there| there.then(event::read).transpose()) {
                Ok(Some(Input::Key(key))) => {
                    let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    let _ = send.blocking_send(if interrupted { KeyCode::Esc } else { key.code });
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    receive
}

async fn watch(
    terminal: &mut DefaultTerminal,
    args: &Args,
    events: &mut tonic::Streaming<wire::LookEvent>,
    mut keys: mpsc::Receiver<KeyCode>,
) -> Result<(), Failure> {
    let (mut rates, mut by, mut title) = (Rates::new(WINDOW), args.by, String::new());
    let mut again = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            key = keys.recv() => match key {
                None | Some(KeyCode::Esc | KeyCode::Char('q')) => return Ok(()),
                Some(key) => by = chosen(key).unwrap_or(by),
            },
            event = next(events) => match event? {
                None => return Ok(()),
                Some(Event::Looking(looking)) => title = asked(looking, args.of.as_deref()),
                Some(Event::Batch(batch)) => {
                    rates.take(batch, Instant::now());
                    continue;
                }
            },
            _ = again.tick() => {}
        }
        draw(terminal, &rates.rows(by), by, &title)?;
    }
}

fn chosen(key: KeyCode) -> Option<By> {
    match key {
        KeyCode::Char('s') => Some(By::Service),
        KeyCode::Char('e') => Some(By::Edge),
        KeyCode::Char('l') => Some(By::Site),
        KeyCode::Char('c') => Some(By::Caller),
        _ => None,
    }
}

fn draw(terminal: &mut DefaultTerminal, rows: &[Row], by: By, title: &str) -> Result<(), Failure> {
    let lines = rows.iter().map(|row| {
        let colour = match row.success {
            Some(success) if success < 0.95 => Color::Red,
            Some(success) if success < 0.999 => Color::Yellow,
            // Nobody waits for its answers.
            _ if row.left.is_some_and(|left| left > 0.05) => Color::Yellow,
            _ => Color::Reset,
        };
        Line::new(cells(row).into_iter().map(Cell::from)).style(Style::new().fg(colour))
    });
    let widths = [Constraint::Fill(1)].into_iter().chain([10, 10, 9, 10, 10, 10, 8, 9].map(Constraint::Length));
    let head = Line::new(HEAD).style(Style::new().add_modifier(Modifier::BOLD));
    let by = format!("{by:?}").to_lowercase();
    let frame = Block::bordered().title(format!(" isthmus top, by {by}: {title} ")).title_bottom(" s e l c  q ");
    let table = Table::new(lines, widths).header(head).block(frame);
    let drawn = terminal.draw(|area| area.render_widget(table, area.area()));
    drawn.map(drop).map_err(|error| Failure::plain(format!("this terminal: {error}")))
}
