//! What the processes of the simulation find around them.

use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use switchboard::directory::Entry;
use switchboard::simulation::{Accept, Bug, Pipe, World};

use super::book::Book;
use super::machine::{Current, current};
use super::network::Network;
use super::planted::Planted;

/// The network, and the clock of whoever runs now.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) network: Network,
    pub(super) book: Book,
    pub(super) planted: Planted,
}

fn here() -> Current {
    current().expect("only processes look around")
}

impl World for Surroundings {
    fn bind(&self, address: &str) -> io::Result<Box<dyn Accept>> {
        self.network.bind(here().host, address).map(|acceptor| Box::new(acceptor) as Box<dyn Accept>)
    }

    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Pipe>> {
        match self.network.connect(here().host, address) {
            Ok(connecting) => connecting.boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn boottime(&self) -> Duration {
        here().boottime()
    }

    fn wall_ms(&self) -> u64 {
        here().wall_ms()
    }

    fn is_planted(&self, bug: Bug) -> bool {
        self.planted.bug() == Some(bug)
    }

    fn applied(&self, revision: u64, entry: &Entry) {
        self.book.applied(here().host, revision, entry);
    }
}
