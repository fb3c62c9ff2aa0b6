//! Limits of keys and of customers: set one by one, kept by the ledger, in force at once.

use super::Admin;
use super::audit::{Action, By, Made, shown};
use super::openapi::KeyLimits;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, customer_view, key_view, unknown_customer, unknown_key};
use super::sent::{Named, Sent};
use super::views::{CustomerView, KeyView};
use crate::admit::limits::Limits;
use crate::endpoint::{self, Endpoint};
use crate::id::{CustomerId, KeyId};
use crate::ledger::Customer;
use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The fields of [`Limits`] that are to have other values; `null` lifts a limit.
pub type Changes = Map<String, Value>;

/// Change limits of a key, at once
///
/// Those that are not named stay; `null` lifts one.
#[utoipa::path(
    post,
    path = "/admin/v1/keys/{id}/limits",
    tag = "keys",
    params(("id" = KeyId, Path), By),
    request_body = KeyLimits,
    responses((status = 200, description = "As it is now", body = KeyView), AdminRefusal)
)]
pub(super) async fn limit_key(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(changes): Sent<Changes>,
) -> Answer<KeyView> {
    let key = KeyId::parse(&id).ok_or_else(unknown_key)?;
    let customer = owner(&admin, key).ok_or_else(unknown_key)?;
    let before = key_view(&admin, customer, key)?;
    set_key(&admin, customer, key, changes).await?;
    let after = key_view(&admin, customer, key)?;
    let made = Made { by: &by, action: Action::LimitKey, before: Some(shown(&before)), entry_id: None };
    admin.note(made, key, &after).await?;
    Ok(Json(after))
}

/// Change limits of all keys of a customer together, at once
///
/// Those that are not named stay; `null` lifts one.
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/limits",
    tag = "customers",
    params(("id" = CustomerId, Path), By),
    request_body = Limits,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn limit_customer(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(changes): Sent<Changes>,
) -> Answer<CustomerView> {
    let customer = CustomerId::parse(&id).ok_or_else(unknown_customer)?;
    let before = customer_view(&admin, customer)?;
    set_customer(&admin, customer, changes).await?;
    let after = customer_view(&admin, customer)?;
    let made = Made { by: &by, action: Action::LimitCustomer, before: Some(shown(&before)), entry_id: None };
    admin.note(made, customer, &after).await?;
    Ok(Json(after))
}

async fn set_customer(admin: &Admin, customer: CustomerId, changes: Changes) -> Result<(), AdminRefusal> {
    let _one = admin.setting.lock().await;
    let before = admin.ledger.customer(customer, |found| Arc::clone(&found.limits));
    let limits = changed(&before.ok_or_else(unknown_customer)?, changes)?;
    admin.ledger.limit(customer, None, limits.to_json().into()).await?;
    admin.gates.set_customer(customer, limits);
    Ok(())
}

/// Changes limits of a key: durable, then in force.
pub(super) async fn set_key(
    admin: &Admin,
    customer: CustomerId,
    key: KeyId,
    changes: Changes,
) -> Result<(), AdminRefusal> {
    // One at a time: each starts from what the one before it left.
    let _one = admin.setting.lock().await;
    let known = |found: &Customer| found.keys.get(&key).map(|known| Arc::clone(&known.limits));
    let before = admin.ledger.customer(customer, known).flatten().ok_or_else(unknown_key)?;
    let limits = of_key(changed(&before, changes)?)?;
    admin.ledger.limit(customer, Some(key), limits.to_json().into()).await?;
    admin.gates.set_key(key, limits);
    Ok(())
}

/// What is wrong with limits for a new key is told before it is made.
pub(super) fn check(changes: &Changes) -> Result<(), AdminRefusal> {
    changed(&[], changes.clone()).and_then(of_key).map(drop)
}

/// What is agreed with a customer is not a matter of single keys.
fn of_key(limits: Limits) -> Result<Limits, AdminRefusal> {
    match (&limits.countries, limits.content) {
        (None, None) => Ok(limits),
        (Some(_), _) => {
            Err(AdminRefusal::malformed("limits: `countries` are set for a customer, not for a key"))
        }
        (None, Some(_)) => {
            Err(AdminRefusal::malformed("limits: `content` is set for a customer, not for a key"))
        }
    }
}

fn changed(before: &[u8], changes: Changes) -> Result<Limits, AdminRefusal> {
    let before = match before {
        [] => Limits::default(),
        kept => Limits::parse(kept).map_err(AdminRefusal::failed)?,
    };
    let malformed = |why| AdminRefusal::malformed(format!("limits: {why}"));
    let limits = before.with(changes).map_err(malformed)?;
    let all: Vec<&str> =
        Endpoint::ALL.into_iter().map(Endpoint::name).chain([endpoint::FILES, endpoint::BATCHES]).collect();
    match limits.endpoints.iter().flatten().find(|name| !all.contains(&&***name)) {
        Some(name) => Err(malformed(format!("there is no endpoint `{name}`, only {}", all.join(", ")))),
        None => Ok(limits),
    }
}

fn owner(admin: &Admin, key: KeyId) -> Option<CustomerId> {
    let mut owner = None;
    admin.ledger.each_customer(|customer, found| {
        if found.keys.contains_key(&key) {
            owner = Some(customer);
        }
    });
    owner
}
