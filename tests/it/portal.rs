//! The customers' page: what browsers are told to hold it to, and that all it asks for is there.

use crate::support::scene::{scene, scene_with};
use crate::support::{Answer, Client, Settings, ask, audit};

async fn file(client: &Client, path: &str) -> Answer {
    Answer::read(client.request("GET", path)).await
}

/// What stands between `from` and `to`, each time.
fn between<'a>(text: &'a str, from: &str, to: char) -> Vec<&'a str> {
    text.split(from).skip(1).filter_map(|rest| rest.split(to).next()).collect()
}

#[tokio::test]
async fn the_page_loads_only_its_own_and_runs_nothing_else() {
    let scene = scene();
    for client in scene.clients() {
        let page = file(&client, "/tollgate/").await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert_eq!(file(&client, "/tollgate").await.body, page.body);
        let html = page.text();
        let mut loaded = [between(&html, "src=\"", '"'), between(&html, "href=\"", '"')].concat();
        loaded.retain(|url| !url.starts_with("data:image/"));
        assert_eq!(loaded, ["/tollgate/portal.js", "/tollgate/portal.css"], "all that it loads");
        for path in [&["/tollgate/"], &*loaded].concat() {
            let answer = file(&client, path).await;
            assert_eq!(answer.status, 200, "{path}");
            let policy = answer.header("content-security-policy");
            for rule in
                ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
            {
                assert!(policy.contains(rule), "{policy}");
            }
            assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
            assert_eq!(answer.header("referrer-policy"), "no-referrer");
            assert_eq!(answer.header("cache-control"), "no-cache");
            for name in ["set-cookie", "access-control-allow-origin"] {
                assert!(!answer.headers.contains_key(name), "{answer:?}");
            }
            let head = Answer::read(client.request("HEAD", path)).await;
            assert_eq!((head.status, head.body.len()), (200, 0));
            assert_eq!(head.header("content-length"), answer.body.len().to_string());
            Answer::read(client.request("POST", path)).await.is_error(405, None);
        }
        // What the policy forbids would not run: nothing of it is there.
        for forbidden in
            ["<style", " style=", " onclick", " onload", " onerror", "javascript:", "<iframe", "<img"]
        {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert_eq!(html.matches("<script").count(), 1);
        let script = file(&client, "/tollgate/portal.js").await.text();
        for kept in ["localStorage", "sessionStorage", "indexedDB", "document.cookie", "innerHTML", "eval("] {
            assert!(!script.contains(kept), "{kept}: the key is in memory alone, and text is text");
        }
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn all_that_the_page_asks_for_is_there() {
    let scene = scene();
    for client in scene.clients() {
        let html = file(&client, "/tollgate/").await.text();
        let script = file(&client, "/tollgate/portal.js").await.text();
        let ids: Vec<&str> = between(&script, "$(\"", '"');
        assert!(ids.len() > 20, "{ids:?}");
        for id in ids {
            assert!(html.contains(&format!("id=\"{id}\"")), "the page has no {id}");
        }
        // Nothing but this is asked for, with what stands between braces filled in.
        assert_eq!(between(&script, "fetch(", ','), ["`/tollgate/v1/${path}`"]);
        let asked = [between(&script, "ask(\"", '"'), between(&script, "ask(`", '`')].concat();
        assert_eq!(asked.len(), 4, "{asked:?}");
        let request = client.ask(&ask(&[])).await.id();
        scene.gateway.receipt(&request).await;
        for path in asked {
            let path = path
                .replace("${from}", "2026-11-01")
                .replace("${encodeURIComponent(id)}", &request)
                .replace("${PAGE}", "60")
                .replace("${more}", "&before=1000");
            assert!(!path.contains('$'), "{path}");
            let answer = client.get(&format!("/tollgate/v1/{path}")).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}");
        }
    }
    audit(scene.gateway, &[&scene.provider]).is_exact(2);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let scene = scene_with(&Settings { gateway: ", portal: false", ..Settings::default() });
    let client = &scene.clients()[0];
    for path in ["/tollgate", "/tollgate/", "/tollgate/portal.js", "/tollgate/portal.css"] {
        file(client, path).await.is_error(404, None);
    }
    assert_eq!(client.get("/tollgate/v1/balance").await.status, 200, "what it would ask stays");
    assert!(file(client, "/").await.json()["portal"].is_null());
    scene.cost_nothing(0).await;
}
