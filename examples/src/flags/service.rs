//! A web service in which every request sees one state of the flags.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::extract::{Extension, Path};
use axum::http::Request;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tower::{Layer, Service};
use zdm_core::phase::Phase;
use zdm_flags::{Context, Flags, Snapshot, flags};

flags! {
    /// Where orders are kept.
    pub static ORDERS_STORE: Phase = "orders-store" => Phase::Off;
    /// What an order costs.
    pub static NEW_PRICING: bool = "new-pricing" => false;
    /// The number of the price list. It always changes together with `PRICE_LIST_TAX`.
    pub static PRICE_LIST: i64 = "price-list" => 0;
    /// The number of the tax table.
    pub static PRICE_LIST_TAX: i64 = "price-list-tax" => 0;
}

/// Puts a snapshot of the flags into the extensions of every request.
#[derive(Clone, Debug)]
pub struct FlagsLayer {
    flags: Flags,
}

impl FlagsLayer {
    /// A layer over these flags.
    pub fn new(flags: Flags) -> Self {
        Self { flags }
    }
}

impl<S> Layer<S> for FlagsLayer {
    type Service = WithFlags<S>;

    fn layer(&self, inner: S) -> WithFlags<S> {
        WithFlags { flags: self.flags.clone(), inner }
    }
}

/// What [`FlagsLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct WithFlags<S> {
    flags: Flags,
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithFlags<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.flags.snapshot());
        self.inner.call(request)
    }
}

/// The routes of the service.
pub fn router(flags: Flags) -> Router {
    Router::new()
        .route("/orders/{tenant}", get(orders))
        .route("/health", get(health))
        .layer(Extension(flags.clone()))
        .layer(FlagsLayer::new(flags))
}

async fn orders(Path(tenant): Path<String>, Extension(f): Extension<Arc<Snapshot>>) -> Json<Value> {
    let list = f.get(&PRICE_LIST, &Context::key(&tenant));
    // Work that takes a while. Whatever is reloaded meanwhile, this request goes on with what it has.
    tokio::task::yield_now().await;
    let cx = Context::key(&tenant);
    Json(json!({
        "store": f.get(&ORDERS_STORE, &cx).to_string(),
        "newPricing": f.get(&NEW_PRICING, &cx),
        "priceList": list,
        "priceListTax": f.get(&PRICE_LIST_TAX, &cx),
        "revision": f.revision(),
    }))
}

async fn health(Extension(flags): Extension<Flags>) -> Json<Value> {
    let health = flags.health();
    let refused: Vec<Value> = health
        .sources
        .iter()
        .filter_map(|source| Some(json!({"source": source.name, "reason": source.refused.as_ref()?})))
        .collect();
    Json(json!({"revision": health.revision, "refused": refused, "findings": health.findings.len()}))
}
