//! Acknowledging, and the other ways to settle a delivery.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::delivery::Delivery;
use crate::error::Error;
use crate::name::TopicName;
use crate::subscription::Shared;
use crate::subscription_task::Command;
use crate::window::{Op, Settle, Settled};

/// Settles the deliveries of one [`Subscription`](crate::Subscription). Cheap to clone; outlives the subscription as [`Error::Closed`] only.
///
/// Queued acknowledgements are sent together, many ids in one line. A delivery whose connection is gone is not acknowledged over
/// another, unless [`SubscribeOptions::late_acks`](crate::SubscribeOptions::late_acks) is set: it is [`Settled::ConnectionLost`].
#[derive(Clone)]
pub struct Acker {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) topic: TopicName,
    pub(crate) prefetch: usize,
}

impl Acker {
    /// Queues an acknowledgement, and does not wait for its answer: a consumer that calls this after each delivery is
    /// never slower than the network. An acknowledgement without effect is logged; the event comes again.
    ///
    /// # Errors
    /// The reason for which the subscription ended. [`Error::Invalid`] for an event whose id is `*`, which the protocol's `ack`
    /// takes for "all of them".
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), Error> {
        self.settle(delivery, Op::Ack, None).await
    }

    /// [`Acker::ack`] for several.
    ///
    /// # Errors
    /// As there; those before the one that failed are queued.
    pub async fn ack_many(&self, deliveries: &[Delivery]) -> Result<(), Error> {
        for delivery in deliveries {
            self.ack(delivery).await?;
        }
        Ok(())
    }

    /// Acknowledges, and waits for the broker's answer to each, in order.
    ///
    /// # Errors
    /// The reason for which the subscription ended, or [`Error::Refused`].
    pub async fn ack_confirmed(&self, deliveries: &[Delivery]) -> Result<Vec<Settled>, Error> {
        let mut answers = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            answers.push(self.settle_asking(delivery, Op::Ack).await?);
        }
        let mut settled = Vec::with_capacity(answers.len());
        for answer in answers {
            settled.push(self.answer(answer).await?);
        }
        Ok(settled)
    }

    /// Acknowledges all that [`Subscription::next`](crate::Subscription::next) has returned and that is not settled yet, and waits; returns how many
    /// the broker has acknowledged.
    ///
    /// It does not use the protocol's `ack <topic> *`: that would include what is in flight but still on its way here,
    /// which the consumer has not seen.
    ///
    /// # Errors
    /// As for [`Acker::ack_confirmed`].
    pub async fn ack_all(&self) -> Result<usize, Error> {
        let mut answers = Vec::new();
        let all: Vec<_> =
            self.shared.handed_out().iter().map(|(serial, (id, from))| (*serial, id.clone(), *from)).collect();
        for (serial, id, connection) in all {
            // A concurrent `ack` may have been faster.
            if self.shared.handed_out().remove(&serial).is_none() || id.as_str() == "*" {
                continue;
            }
            let (answer, receiver) = oneshot::channel();
            self.command(Command::Settle(Settle { op: Op::Ack, id, connection, answer: Some(answer) })).await?;
            answers.push(receiver);
        }
        let mut done = 0;
        for answer in answers {
            done += usize::from(self.answer(answer).await? == Settled::Done);
        }
        Ok(done)
    }

    /// Gives a delivery back, and waits for the answer: the event is delivered again, after `delay` if one is given, in its
    /// priority's order.
    ///
    /// # Errors
    /// As for [`Acker::ack_confirmed`].
    pub async fn nack(&self, delivery: &Delivery, delay: Option<Duration>) -> Result<Settled, Error> {
        let delay = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        let answer = self.settle_asking(delivery, Op::Nack(delay)).await?;
        self.answer(answer).await
    }

    /// Starts the delivery's `ack_timeout` again, and waits for the answer.
    ///
    /// # Errors
    /// As for [`Acker::ack_confirmed`].
    pub async fn touch(&self, delivery: &Delivery) -> Result<Settled, Error> {
        let answer = self.settle_asking(delivery, Op::Touch).await?;
        self.answer(answer).await
    }

    /// Sends the event to the dead-letter topic, with `reason` as its note, and waits for the answer.
    ///
    /// # Errors
    /// As for [`Acker::ack_confirmed`]; [`Error::Invalid`] for control characters in the reason.
    pub async fn term(&self, delivery: &Delivery, reason: Option<&str>) -> Result<Settled, Error> {
        const MOST: usize = 4096;
        let reason = reason.map(str::trim).filter(|reason| !reason.is_empty()).map(str::to_owned);
        if let Some(reason) = &reason
            && (reason.len() > MOST || reason.contains(char::is_control))
        {
            return Err(Error::Invalid(format!("a reason has at most {MOST} bytes and no control characters")));
        }
        let answer = self.settle_asking(delivery, Op::Term(reason)).await?;
        self.answer(answer).await
    }

    /// Waits until everything that has been queued is answered.
    ///
    /// # Errors
    /// The reason for which the subscription ended.
    pub async fn flush(&self) -> Result<(), Error> {
        let (answer, receiver) = oneshot::channel();
        self.command(Command::Flush(answer)).await?;
        self.answer(receiver).await
    }

    async fn settle_asking(
        &self,
        delivery: &Delivery,
        op: Op,
    ) -> Result<oneshot::Receiver<Result<Settled, Error>>, Error> {
        let (answer, receiver) = oneshot::channel();
        self.settle(delivery, op, Some(answer)).await?;
        Ok(receiver)
    }

    async fn settle(
        &self,
        delivery: &Delivery,
        op: Op,
        answer: Option<oneshot::Sender<Result<Settled, Error>>>,
    ) -> Result<(), Error> {
        if op == Op::Ack && delivery.id().as_str() == "*" {
            return Err(Error::Invalid("an event whose id is * cannot be acknowledged on its own".to_owned()));
        }
        let settles = op != Op::Touch;
        let settle = Settle { op, id: delivery.id().clone(), connection: delivery.connection, answer };
        self.command(Command::Settle(settle)).await?;
        if settles {
            self.shared.handed_out().remove(&delivery.serial);
        }
        Ok(())
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), Error> {
        // Tried first because it nearly always works and is cheaper than the future.
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.shared.end_reason()),
            Err(mpsc::error::TrySendError::Full(command)) => {
                self.commands.send(command).await.map_err(|_| self.shared.end_reason())
            }
        }
    }

    async fn answer<T>(&self, receiver: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        receiver.await.unwrap_or_else(|_| Err(self.shared.end_reason()))
    }
}

impl std::fmt::Debug for Acker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acker").field("topic", &self.topic).finish_non_exhaustive()
    }
}
