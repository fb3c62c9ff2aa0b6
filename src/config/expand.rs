//! `${NAME}` in a text: replaced from the environment. `$${` stands for a plain `${`.

/// Reads one variable of the environment; `None` when it is not set.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The text with every variable replaced, or everything that is wrong with it.
pub(super) fn expand(text: &str, environment: Environment<'_>) -> Result<String, Vec<String>> {
    let mut expanded = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(&rest[..start]);
        let Some((name, after)) = rest[start + 2..].split_once('}') else {
            faults.push("has `${` without `}`: write ${NAME}, or $${ for a plain ${".to_owned());
            break;
        };
        rest = after;
        if !is_name(name) {
            faults.push("has `${...}` around what is no name of a variable: write ${NAME}".to_owned());
        } else if let Some(value) = environment(name) {
            expanded.push_str(&value);
        } else {
            faults.push(format!(
                "the environment variable {name} is not set: set it, or write $${{ for a plain ${{"
            ));
        }
    }
    expanded.push_str(rest);
    if faults.is_empty() { Ok(expanded) } else { Err(faults) }
}

fn is_name(text: &str) -> bool {
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    letters && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &[&str]>) {
        let environment = |name: &str| (name == "A_1").then(|| "${B}".to_owned());
        match (expand(text, &environment), expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{text}"),
            (Err(faults), Err(parts)) => {
                assert_eq!(faults.len(), parts.len(), "{text}: {faults:?}");
                assert!(faults.iter().zip(parts).all(|(f, part)| f.contains(part)), "{text}: {faults:?}");
            }
            (got, expect) => panic!("{text}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn variables_are_replaced_once() {
        check("plain $ $$ {} }", Ok("plain $ $$ {} }"));
        check("${A_1}", Ok("${B}"));
        check("a${A_1}b${A_1}c", Ok("a${B}b${B}c"));
        check("$${A_1} $$${A_1}", Ok("${A_1} $${A_1}"));
    }

    #[test]
    fn what_cannot_be_replaced_is_told() {
        check("${B}${C}", Err(&["variable B is not set", "variable C is not set"]));
        check("${A_1", Err(&["without `}`"]));
        check("${}", Err(&["no name"]));
        check("${1A}", Err(&["no name"]));
    }
}
