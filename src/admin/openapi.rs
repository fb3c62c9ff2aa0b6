//! The OpenAPI document of the admin API, made of its handlers: a route cannot be served without
//! being in it.
//!
//! What a path takes and answers stands at its handler and its types; here is what they share: how
//! words are written, what is refused, and the token.

use super::audit::{BY, By};
use super::refusal::AdminRefusal;
use crate::admit::limits::Limits;
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::{Chain, Seq};
use crate::money::{Amount, UnitPrice};
use crate::policy::content::Mode;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, Header, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
    Response, ResponseBuilder, SecurityRequirement,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

/// The name of the security scheme.
const TOKEN: &str = "admin_token";
/// What no path has yet.
pub(super) fn bare() -> OpenApi {
    let about = "What the operator does with customers, keys, credit, upstream accounts and the ledger. \
                 Amounts are decimal strings in US dollars, exact; times are RFC 3339. Errors have the \
                 shape of OpenAI's.";
    let info = InfoBuilder::new()
        .title("Tollgate's admin API")
        .description(Some(about))
        .version(env!("CARGO_PKG_VERSION"));
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("`admin.token` of the configuration"))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme(TOKEN, SecurityScheme::Http(token))
        .schema_from::<Refused>()
        .schema_from::<Refusal>();
    let none: [&str; 0] = [];
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new(TOKEN, none)]))
        .build()
}

/// Why a request is refused.
#[derive(Serialize, ToSchema)]
pub(super) struct Refused {
    pub(super) error: Refusal,
}

/// Why, for people and for programs.
#[derive(Serialize, ToSchema)]
pub(super) struct Refusal {
    /// What is wrong, and what to do.
    pub(super) message: String,
    /// Always `admin_error`.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// Always null.
    pub(super) param: Option<String>,
    /// What programs tell refusals apart by.
    pub(super) code: &'static str,
}

impl IntoResponses for AdminRefusal {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let refused = [
            ("400", "What was sent makes no sense: `malformed`"),
            ("401", "The admin token is missing or wrong: `invalid_admin_token`"),
            ("404", "No such thing: `not_found`"),
            ("405", "The path takes another method: `wrong_method`"),
            ("409", "It does not fit what is there: `exists`, `reference_used`, `wrong_status`, …"),
            ("429", "Too many requests, or too many wrong tokens: `rate_limit_exceeded`"),
            ("500", "Something of the gateway's own failed: `failed`"),
            ("503", "The ledger cannot be written: `ledger_down`"),
        ];
        refused.into_iter().map(|(status, why)| (status.to_owned(), response(status, why).into())).collect()
    }
}

impl IntoParams for By {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let by = ParameterBuilder::new()
            .name(BY.as_str())
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("On whose behalf it is done, for the audit; `operator` if nobody says"))
            .schema(Some(Name::schema()));
        vec![by.build()]
    }
}

fn response(status: &str, why: &str) -> Response {
    let refused = Ref::from_schema_name(Refused::name());
    let body = ContentBuilder::new().schema(Some(refused)).build();
    let response = ResponseBuilder::new().description(why).content("application/json", body);
    let header = |means: &str| {
        let mut header = Header::default();
        header.description = Some(means.into());
        header
    };
    match status {
        "401" => response.header("www-authenticate", header("Always `Bearer`")),
        "429" => response.header("retry-after", header("Seconds until it may be tried again")),
        _ => response,
    }
    .build()
}

/// Texts of the operator's, as they are checked when they come.
pub(super) struct Name;
pub(super) struct NameOrNothing;
pub(super) struct ModelName;
pub(super) struct CountryOrAll;
pub(super) struct Reason;
pub(super) struct ReasonOrNothing;
pub(super) struct ImportedKey;
pub(super) struct AmountAboveZero;
pub(super) struct AmountNotZero;
pub(super) struct AmountOrZero;

/// How a word is written.
macro_rules! written {
    ($($word:ty: $pattern:literal, $means:literal, $example:literal;)+) => {$(
        impl PartialSchema for $word {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some($pattern))
                    .description(Some($means))
                    .examples([$example])
                    .into()
            }
        }
        impl ToSchema for $word {}
    )+};
}

written! {
    CustomerId: "^cus_[0-9a-f]{16}$", "A customer", "cus_5510d1fba32959fc";
    KeyId: "^key_[0-9a-f]{16}$", "A key, never the key itself", "key_f2c282ad13da839b";
    RequestId: "^req_[0-9a-f]{32}$", "A request, from its `x-request-id`", "req_01a209729b21e08ffb66a08cf798f769";
    Amount: "^-?[0-9]{1,20}(\\.[0-9]{1,18})?$", "US dollars, exact", "24.9999886";
    UnitPrice: "^[0-9]{1,10}(\\.[0-9]{1,9})?$", "US dollars for a million tokens, exact", "0.15";
    Chain: "^[0-9a-fA-F]{64}$", "A head of the ledger's hash chain",
        "f4282b7d251cfd3a26f78752ab9fa4fb3b429b5103ed25b75e4f1da4aa65bc24";
    Name: "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,256}$", "Up to 256 characters, none a control character", "Ada";
    NameOrNothing: "^[^\\u0000-\\u001f\\u007f-\\u009f]{0,256}$", "The same, or nothing", "laptop";
    CountryOrAll: "^([A-Za-z]{2}|\\*)$", "Two letters of ISO 3166, or `*` for all", "DE";
    ModelName: "^[\\s\\S]{1,128}$", "As it is asked for, in up to 128 characters", "gpt-4o-mini";
    Reason: "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,1024}$", "Why, in up to 1024 characters", "an outage";
    ReasonOrNothing: "^[^\\u0000-\\u001f\\u007f-\\u009f]{0,1024}$", "The same, or nothing", "an outage";
    ImportedKey: "^[!-~]{20,256}$", "A key of another gateway", "sk-0123456789abcdefghij";
    AmountAboveZero: "^(?!0+(\\.0+)?$)[0-9]{1,12}(\\.[0-9]{1,18})?$", "US dollars, above zero", "25.00";
    AmountOrZero: "^[0-9]{1,12}(\\.[0-9]{1,18})?$", "US dollars, at least zero", "100.00";
    AmountNotZero: "^(?!-?0+(\\.0+)?$)-?[0-9]{1,12}(\\.[0-9]{1,18})?$", "US dollars, not zero", "-5.00";
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples(["2026-11-23T17:27:15.489745Z"])
            .into()
    }
}
impl ToSchema for Timestamp {}

impl PartialSchema for Seq {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0_usize))
            .maximum(Some(usize::MAX))
            .description(Some("The place of an entry in the journal, from 1"))
            .into()
    }
}
impl ToSchema for Seq {}

impl PartialSchema for Endpoint {
    fn schema() -> RefOr<Schema> {
        let names = Endpoint::ALL.map(Endpoint::name);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}
impl ToSchema for Endpoint {}

/// An address, or a network such as `192.0.2.0/24`.
struct Network;

impl PartialSchema for Network {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let address = |known| text().format(Some(SchemaFormat::KnownFormat(known)));
        let v4 = "((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\\.(?!/)|(?=/))){4}";
        let h = "[0-9a-fA-F]{1,4}";
        // Groups, of which `::` stands for those that are zero.
        let v6 = format!(
            "({h}:){{7}}{h}|({h}:){{1,7}}:|({h}:){{1,6}}:{h}|({h}:){{1,5}}(:{h}){{1,2}}|({h}:){{1,4}}(:{h}){{1,3}}\
             |({h}:){{1,3}}(:{h}){{1,4}}|({h}:){{1,2}}(:{h}){{1,5}}|{h}:(:{h}){{1,6}}|:((:{h}){{1,7}}|:)|::ffff:{v4}"
        );
        let v4 = format!("^{v4}/(3[0-2]|[12]?[0-9])$");
        let v6 = format!("^({v6})/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$");
        AnyOfBuilder::new()
            .description(Some("An address, or a network such as `192.0.2.0/24`"))
            .examples([serde_json::json!("192.0.2.0/24")])
            .item(address(KnownFormat::Ipv4))
            .item(address(KnownFormat::Ipv6))
            .item(text().pattern(Some(v4)))
            .item(text().pattern(Some(v6)))
            .into()
    }
}
impl ToSchema for Network {}

/// [`Limits`] as they are sent and answered: what is absent or null is not limited.
#[derive(ToSchema)]
#[schema(as = Limits)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is read")]
struct LimitsWritten {
    /// Whether it opens anything; it does unless this is false.
    enabled: Option<bool>,
    /// Requests a minute.
    #[schema(minimum = 1, maximum = 10_000_000_000_u64)]
    rpm: Option<u64>,
    /// Tokens a minute, input and output.
    #[schema(minimum = 1, maximum = 10_000_000_000_u64)]
    tpm: Option<u64>,
    /// Requests at once.
    #[schema(minimum = 1, maximum = 4_294_967_295_u64)]
    concurrency: Option<u64>,
    /// Models that may be asked for.
    #[schema(min_items = 1, max_items = 256)]
    models: Option<Vec<ModelName>>,
    /// Endpoints that may be used, by their names on receipts.
    #[schema(min_items = 1, max_items = 256)]
    endpoints: Option<Vec<Endpoint>>,
    /// Where requests may come from.
    #[schema(min_items = 1, max_items = 256)]
    allow_ip: Option<Vec<Network>>,
    /// Until when it opens anything.
    expires: Option<Timestamp>,
    /// US dollars in all.
    budget: Option<AmountAboveZero>,
    /// US dollars in a day of UTC.
    budget_per_day: Option<AmountAboveZero>,
    /// US dollars in a month of UTC.
    budget_per_month: Option<AmountAboveZero>,
    /// Countries of which it is served although nobody else is. Of customers alone.
    #[schema(min_items = 1, max_items = 256)]
    countries: Option<Vec<CountryOrAll>>,
    /// How what is asked is judged, instead of what the configuration says. Of customers alone.
    content: Option<Mode>,
}

/// [`Limits`] that a key can have.
pub(super) struct KeyLimits;

impl PartialSchema for KeyLimits {
    fn schema() -> RefOr<Schema> {
        let mut limits = LimitsWritten::schema();
        if let RefOr::T(Schema::Object(limits)) = &mut limits {
            limits.properties.remove("countries");
            limits.properties.remove("content");
        }
        limits
    }
}
impl ToSchema for KeyLimits {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        LimitsWritten::schemas(schemas);
    }
}

impl PartialSchema for Limits {
    fn schema() -> RefOr<Schema> {
        LimitsWritten::schema()
    }
}
impl ToSchema for Limits {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        LimitsWritten::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use crate::admit::limits::Limits;
    use serde_json::Value;

    #[test]
    fn the_document_has_every_limit() {
        let document = serde_json::to_value(super::super::document()).unwrap();
        let limits = document["components"]["schemas"]["Limits"]["properties"].as_object().unwrap();
        let told: Vec<&str> = limits.keys().map(String::as_str).collect();
        for name in &told {
            let wrong = Limits::parse(format!("{{\"{name}\":{{}}}}").as_bytes()).unwrap_err();
            assert!(!wrong.contains("unknown field"), "{wrong}");
        }
        let unknown = Limits::parse(b"{\"?\":1}").unwrap_err();
        let known = unknown.split('`').skip(3).step_by(2);
        assert_eq!(known.filter(|name| !told.contains(name)).collect::<Vec<_>>(), [""; 0], "{unknown}");
        assert!(told.len() > 7, "{told:?}");
    }

    #[test]
    fn every_operation_says_what_it_is_what_it_answers_and_how_it_is_refused() {
        let document = serde_json::to_value(super::super::document()).unwrap();
        let mut ids = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = format!("{method} {path}");
                let text = |of: &str| operation[of].as_str().unwrap_or_default().to_owned();
                assert!(text("summary").len() > 4, "{name} has no summary");
                ids.push(text("operationId"));
                let responses = operation["responses"].as_object().unwrap();
                for refusal in ["400", "401", "404", "409", "429", "500", "503"] {
                    assert!(responses.contains_key(refusal), "{name} lacks {refusal}");
                }
                let served: Vec<&Value> = ["200", "201"].iter().filter_map(|of| responses.get(*of)).collect();
                assert_eq!(served.len(), 1, "{name}");
                assert!(served[0]["content"].is_object(), "{name} does not say what it answers");
                let takes = path.matches('{').count();
                let taken = operation["parameters"].as_array().map_or(0, |parameters| {
                    parameters.iter().filter(|parameter| parameter["in"] == "path").count()
                });
                assert_eq!(takes, taken, "{name}");
            }
        }
        assert!(ids.len() > 20, "{ids:?}");
        let known = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), known, "two operations have one name");
        let text = document.to_string();
        let named = text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap());
        for name in named {
            assert!(document["components"]["schemas"][name].is_object(), "{name} is named, not told");
        }
    }
}
