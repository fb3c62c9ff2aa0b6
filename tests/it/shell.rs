//! What the binary tells of itself: completions, manual pages, the OpenAPI document.

use crate::support::gateway::{run, stdout};
use serde_json::Value;

#[test]
fn every_shell_is_told_of_the_commands() {
    for (shell, mark) in [
        ("bash", "complete -F _tollgate"),
        ("zsh", "#compdef tollgate"),
        ("fish", "complete -c tollgate"),
        ("elvish", "edit:completion:arg-completer[tollgate]"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = stdout(&run(&["completions", shell], &[], ""));
        assert!(script.contains(mark), "{shell}: {script:.200}");
        for word in ["statement", "deposit", "--allow-ip", "--config"] {
            assert!(script.contains(word.trim_start_matches('-')), "{shell} does not know {word}");
        }
    }
    assert_eq!(run(&["completions", "cmd"], &[], "").status.code(), Some(2));
}

#[test]
fn bash_takes_its_completions_and_completes() {
    let script = stdout(&run(&["completions", "bash"], &[], ""));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.bash");
    std::fs::write(&file, script).unwrap();
    let complete = "source \"$0\"; COMP_WORDS=(tollgate customer su); COMP_CWORD=2; \
                    _tollgate tollgate su customer; echo \"${COMPREPLY[*]}\"";
    let output = std::process::Command::new("bash").args(["-c", complete]).arg(&file).output().unwrap();
    assert_eq!(stdout(&output).trim(), "suspend", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn each_command_has_a_manual_page() {
    let page = stdout(&run(&["man"], &[], ""));
    assert!(page.contains(".TH tollgate 1"), "{page:.300}");
    assert!(page.contains("Exit codes"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("man1");
    run(&["man", into.to_str().unwrap()], &[], "");
    for name in ["tollgate", "tollgate-serve", "tollgate-customer-ban", "tollgate-ledger-verify"] {
        let page = std::fs::read_to_string(into.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 1")), "{page:.300}");
    }
    let refused = run(&["man", "/dev/null/man1"], &[], "");
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn the_document_is_printed_without_a_gateway() {
    let document: Value = serde_json::from_str(&stdout(&run(&["openapi"], &[], ""))).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/admin/v1/customers"]["post"].is_object());
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["admin_token"]["scheme"], "bearer");
}
