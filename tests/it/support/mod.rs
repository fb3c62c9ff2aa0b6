//! What the tests share.

pub mod books;
pub mod client;
pub mod eventually;
pub mod gateway;
pub mod provider;
pub mod scene;
pub mod scripted;
pub mod tls_front;

pub use books::audit;
pub use client::{
    Answer, Client, ask, event_stream, hang_up_at, hang_up_in, slow_stream, streamed, text_of_stream,
};
pub use eventually::eventually;
pub use gateway::{Account, Customer, Gateway, Settings};
pub use provider::Simulated;
pub use scripted::{Script, Scripted};
