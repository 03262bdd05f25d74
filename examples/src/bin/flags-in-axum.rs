//! A small web service whose flags come from a file and change while it runs.
//!
//!     flags-in-axum [--flags FILE] [--listen ADDRESS]
//!
//! `GET /orders/TENANT` shows what a tenant gets, `GET /health` how loading is going. Change the file and ask
//! again.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::error::Error;

use zdm_examples::flags::service::{self, NEW_PRICING, ORDERS_STORE, PRICE_LIST, PRICE_LIST_TAX};
use zdm_flags::Flags;
use zdm_flags::source::FileSource;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flags/orders.json").to_owned();
    let mut listen = "127.0.0.1:8080".to_owned();
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--flags" => file = value,
            "--listen" => listen = value,
            other => return Err(format!("unknown argument {other:?}; it takes --flags and --listen").into()),
        }
    }
    let flags = Flags::builder()
        .source(FileSource::poll(&file))
        .require([&ORDERS_STORE, &NEW_PRICING])
        .declare([&PRICE_LIST, &PRICE_LIST_TAX])
        .build()?;
    let _subscription = flags.subscribe(|change| println!("{change:?}"));
    let listener = tokio::net::TcpListener::bind(&listen).await?;
    println!("http://{}/orders/tenant-7  with the flags of {file}", listener.local_addr()?);
    axum::serve(listener, service::router(flags)).await?;
    Ok(())
}
