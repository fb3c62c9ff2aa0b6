//! What each path of the admin API does.

use super::audit::{Action, By, Made, shown};
use super::refusal::AdminRefusal;
use super::sent::{Named, Sent};
use super::views::{CustomerView, KeyView};
use super::{Admin, limits, openapi};
use crate::auth::key::{PlainKey, RANDOM_BYTES};
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::{Customer, Entry, KeyCreated, Seq, Window};
use crate::record::receipt::{Receipt, StatementLine, StatementPage};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::StatusCode;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Lines of one page of a statement.
pub const PAGE_LINES_MAX: usize = 1_000;

pub(super) type Shared = State<Arc<Admin>>;
pub(super) type Answer<T> = Result<Json<T>, AdminRefusal>;
type Created<T> = Result<(StatusCode, Json<T>), AdminRefusal>;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCustomer {
    /// As the operator names them.
    #[schema(value_type = openapi::Name)]
    name: Arc<str>,
}

/// Begin to keep a customer
#[utoipa::path(
    post,
    path = "/admin/v1/customers",
    tag = "customers",
    params(By),
    request_body = NewCustomer,
    responses((status = 201, description = "The customer", body = CustomerView), AdminRefusal)
)]
pub(super) async fn create_customer(
    State(admin): Shared,
    by: By,
    Sent(sent): Sent<NewCustomer>,
) -> Created<CustomerView> {
    let NewCustomer { name } = sent;
    let id = CustomerId::from_int(u64::from_le_bytes(random()?));
    admin.ledger.create_customer(id, name).await?;
    let view = customer_view(&admin, id)?;
    let made = Made { by: &by, action: Action::CreateCustomer, before: None, entry_id: None };
    admin.note(made, id, &view).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// All customers, by name
#[utoipa::path(
    get,
    path = "/admin/v1/customers",
    tag = "customers",
    responses((status = 200, description = "By name", body = Vec<CustomerView>), AdminRefusal)
)]
pub(super) async fn list_customers(State(admin): Shared) -> Json<Vec<CustomerView>> {
    let mut all = Vec::new();
    admin.ledger.each_customer(|id, customer| all.push(CustomerView::of(id, customer)));
    all.sort_unstable_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Json(all)
}

/// One customer
#[utoipa::path(
    get,
    path = "/admin/v1/customers/{id}",
    tag = "customers",
    params(("id" = CustomerId, Path)),
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn show_customer(State(admin): Shared, Named(id): Named) -> Answer<CustomerView> {
    let view = CustomerId::parse(&id).and_then(|id| admin.ledger.customer(id, |c| CustomerView::of(id, c)));
    view.map(Json).ok_or_else(unknown_customer)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    customer: CustomerId,
    /// To tell it from others.
    #[serde(default)]
    #[schema(value_type = Option<openapi::NameOrNothing>)]
    name: Option<Arc<str>>,
    /// A key of another gateway; without it, a new one is made.
    #[serde(default)]
    #[schema(value_type = Option<openapi::ImportedKey>)]
    import: Option<String>,
    #[serde(default)]
    #[schema(value_type = openapi::KeyLimits)]
    limits: limits::Changes,
}

/// Make a key, or take one over
///
/// The key itself is in the answer and nowhere else, if it was made.
#[utoipa::path(
    post,
    path = "/admin/v1/keys",
    tag = "keys",
    params(By),
    request_body = NewKey,
    responses((status = 201, description = "The key", body = KeyView), AdminRefusal)
)]
pub(super) async fn create_key(State(admin): Shared, by: By, Sent(sent): Sent<NewKey>) -> Created<KeyView> {
    let NewKey { customer, name, import, limits } = sent;
    limits::check(&limits)?;
    let plain = match &import {
        Some(text) => PlainKey::import(text).map_err(AdminRefusal::malformed)?,
        None => PlainKey::from_random(random::<RANDOM_BYTES>()?),
    };
    let key = KeyId::from_int(u64::from_le_bytes(random()?));
    let digest = admin.directory.digest(plain.expose());
    let name = name.unwrap_or_else(|| Arc::from(""));
    let prefix: Arc<str> = plain.shown().into();
    admin.ledger.create_key(customer, KeyCreated { key, digest, prefix, name }).await?;
    // It opens nothing before its limits are in force.
    if !limits.is_empty() {
        limits::set_key(&admin, customer, key, limits).await?;
    }
    admin.directory.insert(digest, customer, key);
    let view = key_view(&admin, customer, key)?;
    let action = if import.is_some() { Action::ImportKey } else { Action::CreateKey };
    admin.note(Made { by: &by, action, before: None, entry_id: None }, key, &view).await?;
    let shown = if import.is_some() { None } else { Some(plain.expose().into()) };
    Ok((StatusCode::CREATED, Json(KeyView { key: shown, ..view })))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichKeys {
    /// Of this customer only.
    customer: Option<CustomerId>,
}

/// All keys, or those of a customer
#[utoipa::path(
    get,
    path = "/admin/v1/keys",
    tag = "keys",
    params(WhichKeys),
    responses((status = 200, description = "By customer", body = Vec<KeyView>), AdminRefusal)
)]
pub(super) async fn list_keys(
    State(admin): Shared,
    query: Result<Query<WhichKeys>, QueryRejection>,
) -> Answer<Vec<KeyView>> {
    let Query(WhichKeys { customer }) = query?;
    let mut all = Vec::new();
    let mut add = |id: CustomerId, found: &Customer| {
        all.extend(found.keys.iter().map(|(key_id, key)| KeyView::of(id, *key_id, key)));
    };
    match customer {
        Some(id) => admin.ledger.customer(id, |found| add(id, found)).ok_or_else(unknown_customer)?,
        None => admin.ledger.each_customer(add),
    }
    all.sort_unstable_by_key(|key| (key.customer, key.id));
    Ok(Json(all))
}

/// End a key for good
#[utoipa::path(
    post,
    path = "/admin/v1/keys/{id}/revoke",
    tag = "keys",
    params(("id" = KeyId, Path), By),
    responses((status = 200, description = "As it is now", body = KeyView), AdminRefusal)
)]
pub(super) async fn revoke_key(State(admin): Shared, Named(id): Named, by: By) -> Answer<KeyView> {
    let id = KeyId::parse(&id).ok_or_else(unknown_key)?;
    let mut owner = None;
    admin.ledger.each_customer(|customer, found| {
        if let Some(key) = found.keys.get(&id) {
            owner = Some((customer, key.digest));
        }
    });
    let (customer, digest) = owner.ok_or_else(unknown_key)?;
    let before = key_view(&admin, customer, id)?;
    admin.ledger.revoke_key(customer, id).await?;
    admin.directory.remove(digest);
    admin.gates.remove_key(id);
    let after = key_view(&admin, customer, id)?;
    let made = Made { by: &by, action: Action::RevokeKey, before: Some(shown(&before)), entry_id: None };
    admin.note(made, id, &after).await?;
    Ok(Json(after))
}

/// The ledger's proof of one request
#[utoipa::path(
    get,
    path = "/admin/v1/receipts/{id}",
    tag = "ledger",
    params(("id" = RequestId, Path)),
    responses((status = 200, description = "The receipt", body = Receipt), AdminRefusal)
)]
pub(super) async fn receipt(State(admin): Shared, Named(id): Named) -> Answer<Receipt> {
    let unknown = || {
        AdminRefusal::not_found(
            "there is no receipt of such a request: it may have been refused before it was admitted",
        )
    };
    let entries = entries_of(&admin, request_id(&id)?).await?;
    Receipt::from_entries(&entries).map(Json).ok_or_else(unknown)
}

pub(super) fn request_id(text: &str) -> Result<RequestId, AdminRefusal> {
    let malformed = || AdminRefusal::malformed("a request id is req_ and 32 hexadecimal digits");
    RequestId::parse(text).ok_or_else(malformed)
}

pub(super) async fn entries_of(admin: &Admin, request: RequestId) -> Result<Vec<Entry>, AdminRefusal> {
    let ledger = Arc::clone(&admin.ledger);
    let entries = blocking(move || ledger.entries_of_request(request)).await?;
    entries.map_err(|why| AdminRefusal::unread(&why))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichLines {
    /// Not before this time.
    from: Option<Timestamp>,
    /// Before this time.
    to: Option<Timestamp>,
    /// After this entry: `next` of the page before.
    #[serde(default)]
    after: Seq,
}

/// Every entry of a customer, page by page
#[utoipa::path(
    get,
    path = "/admin/v1/customers/{id}/statement",
    tag = "customers",
    params(("id" = CustomerId, Path), WhichLines),
    responses((status = 200, description = "A page, in order", body = StatementPage), AdminRefusal)
)]
pub(super) async fn statement(
    State(admin): Shared,
    Named(id): Named,
    query: Result<Query<WhichLines>, QueryRejection>,
) -> Answer<StatementPage> {
    let Query(WhichLines { from, to, after }) = query?;
    let id = CustomerId::parse(&id).ok_or_else(unknown_customer)?;
    admin.ledger.customer(id, |_| ()).ok_or_else(unknown_customer)?;
    let ledger = Arc::clone(&admin.ledger);
    let window = Window { after, from, to };
    let entries = blocking(move || ledger.entries_of_customer(id, window, PAGE_LINES_MAX)).await?;
    let entries = entries.map_err(|why| AdminRefusal::unread(&why))?;
    let next = if entries.len() < PAGE_LINES_MAX { None } else { entries.last().map(|entry| entry.seq.0) };
    let lines = entries.iter().map(StatementLine::from_entry).collect();
    Ok(Json(StatementPage { lines, next }))
}

/// A customer as they are now.
pub(super) fn customer_view(admin: &Admin, id: CustomerId) -> Result<CustomerView, AdminRefusal> {
    admin.ledger.customer(id, |found| CustomerView::of(id, found)).ok_or_else(unknown_customer)
}

/// A key as it is now.
pub(super) fn key_view(admin: &Admin, customer: CustomerId, id: KeyId) -> Result<KeyView, AdminRefusal> {
    let view = |found: &Customer| found.keys.get(&id).map(|key| KeyView::of(customer, id, key));
    admin.ledger.customer(customer, view).flatten().ok_or_else(unknown_key)
}

/// There is no such key.
pub(super) fn unknown_key() -> AdminRefusal {
    AdminRefusal::not_found("there is no such key, or it was revoked already")
}

pub(super) fn unknown_customer() -> AdminRefusal {
    AdminRefusal::not_found("there is no such customer")
}

/// Does something that reads or writes the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AdminRefusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| AdminRefusal::failed("it panicked: see the gateway's log"))
}

fn random<const N: usize>() -> Result<[u8; N], AdminRefusal> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| AdminRefusal::failed("the system gives no random numbers"))
}
