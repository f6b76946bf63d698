//! What each grant sends, byte for byte, and what it makes of the answers.

use obo_edge::call::Source;
use obo_edge::failure::FailureReason;
use obo_edge::request::{Request, RequestField};
use serde_json::{Value, json};

use crate::world::{Answer, CLIENT_SECRET, World, options_with, read_options, reason, request_with};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

fn world(grant: &str) -> World {
    World::with_options(options_with("grant", json!(grant)), false)
}

fn request(fields: &[(RequestField, &str)]) -> Request {
    let mut request = Request::new();
    for (field, value) in fields {
        request.set(*field, value).unwrap();
    }
    request
}

fn exchanged(token: &str) -> Answer {
    let body =
        json!({"access_token": token, "token_type": "Bearer", "issued_token_type": ACCESS_TOKEN, "expires_in": 600});
    Answer::respond(200, body.to_string())
}

// ---------------------------------------------------------------- token-exchange

#[test]
fn a_token_exchange_sends_the_example_of_rfc_8693_section_2_3() {
    let mut world = World::with_options(
        json!({
            "tokenEndpoint": "https://as.example.com/as/token.oauth2",
            "clientId": "rs08", "grant": "token-exchange",
            "clientAuthentication": {"method": "client_secret_basic", "clientSecret": "long-secure-random-secret"},
        }),
        false,
    );
    world.answers.push_back(exchanged("eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.e30.c2ln"));
    let token = world.ask(&request(&[
        (RequestField::Assertion, "accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC"),
        (RequestField::Resource, "https://backend.example.com/api"),
    ]));
    assert!(token.is_ok(), "{token:?}");
    // The example of the RFC, in its order, with the type that this client asks for.
    assert_eq!(world.posted[0].authorization.as_deref(), Some("Basic cnMwODpsb25nLXNlY3VyZS1yYW5kb20tc2VjcmV0"));
    assert_eq!(
        world.posted[0].body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
         &subject_token=accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
         &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
         &resource=https%3A%2F%2Fbackend.example.com%2Fapi"
    );
}

#[test]
fn a_token_exchange_repeats_resource_and_audience_and_names_the_actor() {
    let mut world = world("token-exchange");
    world.answers.push_back(exchanged("t"));
    world
        .ask(&request(&[
            (RequestField::Assertion, "user.token"),
            (RequestField::AssertionType, ID_TOKEN),
            (RequestField::ActorToken, "actor.token"),
            (RequestField::Scopes, "b a"),
            (RequestField::Resource, "urn:r2"),
            (RequestField::Resource, "urn:r1"),
            (RequestField::Audience, "two"),
            (RequestField::Audience, "one"),
        ]))
        .unwrap();
    assert_eq!(
        world.posted[0].body,
        format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=user.token\
             &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aid_token\
             &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
             &actor_token=actor.token&actor_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
             &resource=urn%3Ar1&resource=urn%3Ar2&audience=one&audience=two&scope=a+b\
             &client_id=gateway&client_secret={CLIENT_SECRET}"
        )
    );
}

#[test]
fn in_a_token_exchange_invalid_request_means_the_users_token_and_entras_codes_mean_nothing() {
    for (error, codes, expected) in [
        ("invalid_request", &[][..], FailureReason::AssertionRejected),
        ("invalid_token", &[], FailureReason::AssertionRejected),
        ("invalid_grant", &[50196], FailureReason::AssertionRejected),
        ("invalid_target", &[], FailureReason::Misconfigured),
        ("invalid_scope", &[], FailureReason::Misconfigured),
        ("invalid_client", &[], FailureReason::Misconfigured),
        ("unsupported_grant_type", &[], FailureReason::Misconfigured),
        ("unauthorized_client", &[53003], FailureReason::Misconfigured),
        ("access_denied", &[], FailureReason::Blocked),
        ("temporarily_unavailable", &[], FailureReason::Unavailable),
    ] {
        let mut world = world("token-exchange");
        world.otherwise = Answer::error(400, error, codes);
        assert_eq!(reason(world.ask(&request_with("user.token", "read"))), expected, "{error}");
    }
}

#[test]
fn an_answer_that_names_no_issued_access_token_is_no_token() {
    let mut world = world("token-exchange");
    world.otherwise = Answer::respond(200, r#"{"access_token":"t","token_type":"Bearer"}"#);
    let failure = world.ask(&request_with("user.token", "read")).unwrap_err();
    assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::InvalidResponse, Some("issued_token_type")));
    world.otherwise = exchanged("t");
    assert_eq!(world.ask(&request_with("user.token", "read")).unwrap().1, Source::Issuer, "nothing was kept");
}

// ---------------------------------------------------------------- jwt-bearer

#[test]
fn a_jwt_bearer_request_is_that_of_rfc_7523_section_2_1() {
    let mut world = world("jwt-bearer");
    world
        .ask(&request(&[
            (RequestField::Assertion, "eyJhbGciOiJFUzI1NiIsImtpZCI6IjE2In0.eyJpc3MiO.J9l-ZhwP"),
            (RequestField::Scopes, "read"),
            (RequestField::Resource, "https://files.example/mcp"),
        ]))
        .unwrap();
    assert_eq!(
        world.posted[0].body,
        format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer\
             &assertion=eyJhbGciOiJFUzI1NiIsImtpZCI6IjE2In0.eyJpc3MiO.J9l-ZhwP\
             &scope=read&resource=https%3A%2F%2Ffiles.example%2Fmcp&client_id=gateway&client_secret={CLIENT_SECRET}"
        )
    );
}

#[test]
fn scopes_may_be_left_out_but_for_on_behalf_of() {
    for (grant, expected) in [("jwt-bearer", None), ("token-exchange", None), ("on-behalf-of", Some("scopes"))] {
        let mut world = world(grant);
        world.otherwise = exchanged("t");
        let result = world.ask(&request(&[(RequestField::Assertion, "user.token")]));
        assert_eq!(result.err().and_then(|failure| failure.field.clone()).as_deref(), expected, "{grant}");
        assert!(world.posted.iter().all(|posted| !posted.body.contains("scope=")));
    }
}

#[test]
fn a_field_that_a_grant_has_no_parameter_for_is_refused_by_name() {
    use RequestField::{ActorToken, AssertionType, Audience, Claims, Resource};
    let refused: [(&str, &[RequestField]); 4] = [
        ("on-behalf-of", &[Resource, Audience, ActorToken, AssertionType]),
        ("token-exchange", &[Claims]),
        ("jwt-bearer", &[Audience, ActorToken, AssertionType, Claims]),
        ("identity-assertion", &[Audience, ActorToken, Claims]),
    ];
    for (grant, fields) in refused {
        for field in fields {
            let mut world = if grant == "identity-assertion" { identity_assertion() } else { world(grant) };
            let value = if *field == Claims { "{}" } else { ID_TOKEN };
            let failure = world
                .ask(&request(&[
                    (RequestField::Assertion, "user.token"),
                    (RequestField::Scopes, "read"),
                    (*field, value),
                ]))
                .unwrap_err();
            assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::InvalidRequest, Some(field.name())));
            assert!(world.posted.is_empty());
        }
    }
}

// ---------------------------------------------------------------- identity-assertion

fn identity_assertion_options() -> Value {
    json!({
        "tokenEndpoint": "https://idp.example/token", "clientId": "at-idp", "grant": "identity-assertion",
        "clientAuthentication": {"method": "client_secret_post", "clientSecret": CLIENT_SECRET},
        "resourceAuthorizationServer": {
            "issuer": "https://resource.example", "tokenEndpoint": "https://resource.example/token", "clientId": "at-resource",
            "clientAuthentication": {"method": "client_secret_basic", "clientSecret": "other"},
        },
    })
}

fn identity_assertion() -> World {
    World::with_options(identity_assertion_options(), false)
}

fn id_token_of(user: &str) -> Request {
    request(&[
        (RequestField::Assertion, user),
        (RequestField::Scopes, "read"),
        (RequestField::Resource, "https://files.example/mcp"),
    ])
}

/// An identity assertion for `user`; `number` tells one from another.
fn id_jag(user: &str, number: usize) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding};
    let part = |value: Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
    format!("{}.{}.c2ln", part(json!({"typ": "oauth-id-jag+jwt"})), part(json!({"sub": user, "jti": number})))
}

/// The identity provider and the resource's authorization server, which may refuse what it is shown.
fn two_servers(world: &mut World, mut refuses: impl FnMut(usize) -> Option<Answer> + 'static) {
    let mut redeemed = 0;
    world.judge = Some(Box::new(move |posted| {
        if posted.url == "https://idp.example/token" {
            let body = json!({"access_token": id_jag(&posted.assertion, posted.number), "token_type": "N_A",
                "issued_token_type": ID_JAG, "expires_in": 300});
            return Some(Answer::respond(200, body.to_string()));
        }
        redeemed += 1;
        refuses(redeemed).or_else(|| {
            let body =
                json!({"access_token": format!("for {}", posted.user).replace(' ', "-"), "token_type": "Bearer"});
            Some(Answer::respond(200, body.to_string()))
        })
    }));
}

fn urls(world: &World) -> Vec<&str> {
    world.posted.iter().map(|posted| posted.url.as_str()).collect()
}

const BOTH_LEGS: [&str; 2] = ["https://idp.example/token", "https://resource.example/token"];

#[test]
fn an_identity_assertion_goes_from_the_identity_provider_to_the_resources_authorization_server() {
    let mut world = identity_assertion();
    two_servers(&mut world, |_| None);
    assert_eq!(world.ask(&id_token_of("ann")), Ok(("for-ann".to_owned(), Source::Issuer)));
    assert_eq!(urls(&world), BOTH_LEGS);
    assert_eq!(
        world.posted[0].body,
        format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
             &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aid-jag\
             &audience=https%3A%2F%2Fresource.example&resource=https%3A%2F%2Ffiles.example%2Fmcp&scope=read\
             &subject_token=ann&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aid_token\
             &client_id=at-idp&client_secret={CLIENT_SECRET}"
        )
    );
    assert_eq!(
        world.posted[1].body,
        format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}&scope=read",
            id_jag("ann", 1)
        )
    );
    assert!(world.posted[1].authorization.as_deref().unwrap().starts_with("Basic "));
    assert_eq!(world.ask(&id_token_of("ann")).unwrap().1, Source::Memory);
}

#[test]
fn an_identity_assertion_is_kept_for_the_next_exchange_and_never_for_another_user() {
    let mut world = identity_assertion();
    two_servers(&mut world, |redeemed| (redeemed <= 2).then(|| Answer::error(503, "server_error", &[])));
    assert_eq!(reason(world.ask(&id_token_of("ann"))), FailureReason::Unavailable);
    assert_eq!(urls(&world), [BOTH_LEGS[0], BOTH_LEGS[1], BOTH_LEGS[1]], "only the leg that failed is tried again");
    assert_eq!(world.ask(&id_token_of("ann")).unwrap().0, "for-ann");
    assert_eq!(urls(&world)[3..], [BOTH_LEGS[1]]);
    assert_eq!(world.ask(&id_token_of("bob")).unwrap().0, "for-bob");
    assert_eq!(urls(&world)[4..], BOTH_LEGS);
}

#[test]
fn a_kept_identity_assertion_that_is_refused_is_made_anew_once_and_a_fresh_one_is_not() {
    let mut world = identity_assertion();
    let refused = || Answer::error(400, "invalid_grant", &[]);
    two_servers(&mut world, move |redeemed| match redeemed {
        1 | 2 => Some(Answer::error(503, "server_error", &[])),
        3 | 5 => Some(refused()),
        _ => None,
    });
    assert_eq!(reason(world.ask(&id_token_of("ann"))), FailureReason::Unavailable);
    assert_eq!(world.ask(&id_token_of("ann")).unwrap().0, "for-ann");
    assert_eq!(urls(&world)[3..], [BOTH_LEGS[1], BOTH_LEGS[0], BOTH_LEGS[1]]);
    assert_ne!(world.posted[3].body, world.posted[5].body, "another assertion");
    // The fifth to be redeemed is a fresh one.
    assert_eq!(reason(world.ask(&id_token_of("bob"))), FailureReason::AssertionRejected);
    assert_eq!(urls(&world)[6..], BOTH_LEGS);
    world.advance(crate::world::MINUTE);
    assert_eq!(world.ask(&id_token_of("bob")).unwrap().0, "for-bob");
    assert_eq!(urls(&world)[8..], BOTH_LEGS, "the refused one was dropped");
}

#[test]
fn a_kept_identity_assertion_that_is_always_refused_ends_after_one_more_round() {
    let mut world = identity_assertion();
    two_servers(&mut world, |redeemed| {
        Some(Answer::error(if redeemed <= 2 { 503 } else { 400 }, "invalid_grant", &[]))
    });
    assert_eq!(reason(world.ask(&id_token_of("ann"))), FailureReason::Unavailable);
    let failure = world.ask(&id_token_of("ann")).unwrap_err();
    assert_eq!(failure.reason, FailureReason::AssertionRejected);
    assert!(failure.message.starts_with("resourceAuthorizationServer: the token endpoint answered 400"), "{failure}");
    assert_eq!(urls(&world)[3..], [BOTH_LEGS[1], BOTH_LEGS[0], BOTH_LEGS[1]]);
    world.assert_nothing_is_left();
}

#[test]
fn what_is_evicted_or_wanted_anew_runs_both_legs() {
    let mut world = identity_assertion();
    two_servers(&mut world, |_| None);
    world.ask(&id_token_of("ann")).unwrap();
    world.evict(&id_token_of("ann"));
    world.ask(&id_token_of("ann")).unwrap();
    assert_eq!(urls(&world)[2..], BOTH_LEGS);
    world.ask(&crate::world::anew(id_token_of("ann"))).unwrap();
    assert_eq!(urls(&world)[4..], BOTH_LEGS);
}

#[test]
fn an_identity_assertion_ends_by_its_own_claims_where_the_response_does_not_say() {
    let mut world = identity_assertion();
    let expiry = world.now().plus(300_000).as_millis() / 1000;
    world.judge = Some(Box::new(move |posted| {
        let body = if posted.url == BOTH_LEGS[0] {
            use base64ct::{Base64UrlUnpadded, Encoding};
            let part = |value: Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
            let jwt = format!("{}.{}.c2ln", part(json!({"typ": "oauth-id-jag+jwt"})), part(json!({"exp": expiry})));
            json!({"access_token": jwt, "token_type": "N_A", "issued_token_type": ID_JAG})
        } else {
            return Some(Answer::error(500, "server_error", &[]));
        };
        Some(Answer::respond(200, body.to_string()))
    }));
    world.ask(&id_token_of("ann")).unwrap_err();
    world.advance(140_000);
    world.ask(&id_token_of("ann")).unwrap_err();
    assert_eq!(urls(&world).iter().filter(|url| **url == BOTH_LEGS[0]).count(), 1, "half of its life");
    world.advance(20_000);
    world.ask(&id_token_of("ann")).unwrap_err();
    assert_eq!(urls(&world).iter().filter(|url| **url == BOTH_LEGS[0]).count(), 2);
}

#[test]
fn an_identity_assertion_needs_its_second_server_confidential_clients_and_a_resource() {
    let problem = |change: &dyn Fn(&mut Value)| {
        let mut options = identity_assertion_options();
        change(&mut options);
        read_options(options, false).unwrap_err().field.clone().unwrap()
    };
    assert_eq!(problem(&|options| options["resourceAuthorizationServer"] = json!(null)), "resourceAuthorizationServer");
    assert_eq!(problem(&|options| options["grant"] = json!("token-exchange")), "resourceAuthorizationServer");
    let none = json!({"method": "none"});
    assert_eq!(problem(&|options| options["clientAuthentication"] = none.clone()), "clientAuthentication.method");
    for (name, field) in
        [("issuer", "issuer"), ("clientId", "clientId"), ("clientAuthentication", "clientAuthentication")]
    {
        let field = format!("resourceAuthorizationServer.{field}");
        assert_eq!(problem(&|options| options["resourceAuthorizationServer"][name] = json!(null)), field);
    }
    assert_eq!(
        problem(&|options| options["resourceAuthorizationServer"]["clientAuthentication"] = none.clone()),
        "resourceAuthorizationServer.clientAuthentication.method"
    );
    assert_eq!(
        problem(&|options| options["resourceAuthorizationServer"]["x"] = json!(1)),
        "resourceAuthorizationServer.x"
    );
    let mut world = identity_assertion();
    let failure = world.ask(&request_with("ann", "read")).unwrap_err();
    assert_eq!(failure.field.as_deref(), Some("resource"));
    let failure = world
        .ask(&request(&[
            (RequestField::Assertion, "ann"),
            (RequestField::AssertionType, ACCESS_TOKEN),
            (RequestField::Resource, "urn:r"),
        ]))
        .unwrap_err();
    assert_eq!(failure.field.as_deref(), Some("assertionType"));
}
