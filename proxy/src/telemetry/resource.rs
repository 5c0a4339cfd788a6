//! What a proxy's spans say of where they come from: OpenTelemetry's resource. The workload, its site and our version we
//! know; of pod or machine, and of the app's own version, the environment tells.

use std::borrow::Cow;

/// Attributes that the environment may add, and their bytes.
const MOST: usize = 64;
const LONGEST: usize = 256;

/// Found out once, at start.
#[derive(Debug, Clone, Default)]
pub struct Described(Vec<(Cow<'static, str>, String)>);

impl Described {
    /// `asked`: `OTEL_RESOURCE_ATTRIBUTES`, as OpenTelemetry has it (`name=value,name=value`, percent-encoded). `host`: what
    /// this machine is called; in Kubernetes that is the pod. `instance`: of this process and of no other.
    pub fn of_process(asked: Option<&str>, host: &str, in_kubernetes: bool, instance: u128) -> Described {
        let mut all: Vec<(Cow<'static, str>, String)> = Vec::new();
        let mut add = |name: Cow<'static, str>, value: String| {
            let known = all.iter().any(|(has, _)| *has == name);
            if !known && all.len() < MOST && !value.is_empty() && name.len() <= LONGEST && value.len() <= LONGEST {
                all.push((name, value));
            }
        };
        for pair in asked.unwrap_or_default().split(',') {
            if let Some((name, value)) = pair.split_once('=')
                && let (name, Some(value)) = (name.trim(), decoded(value.trim()))
                && !name.is_empty()
            {
                add(Cow::Owned(name.to_owned()), value);
            }
        }
        // Version 4 of RFC 9562, as the conventions ask for where nothing better is known.
        let id = instance & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let text = format!("{id:032x}");
        let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
        add("service.instance.id".into(), parts.join("-"));
        add(if in_kubernetes { "k8s.pod.name" } else { "host.name" }.into(), host.to_owned());
        add("telemetry.distro.name".into(), "isthmus".to_owned());
        add("telemetry.distro.version".into(), env!("CARGO_PKG_VERSION").to_owned());
        Described(all)
    }

    /// With what the mesh says. The environment's word on a name wins, but for who we are in the mesh.
    pub fn of_workload(&self, workload: Option<(&str, &str)>, site: Option<&str>) -> Vec<(Cow<'static, str>, String)> {
        let mut all: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(self.0.len() + 4);
        if let Some((namespace, name)) = workload {
            for (key, value) in [("service.name", name), ("service.namespace", namespace)] {
                if !self.0.iter().any(|(known, _)| known == key) {
                    all.push((key.into(), value.to_owned()));
                }
            }
            all.push(("isthmus.workload".into(), format!("{namespace}/{name}")));
        }
        if let Some(site) = site {
            all.push(("isthmus.site".into(), site.to_owned()));
        }
        all.extend(self.0.iter().filter(|(name, _)| !name.starts_with("isthmus.")).cloned());
        all
    }
}

/// `%2C` and the like. What is malformed is left out.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
            bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[path = "resource_test.rs"]
mod resource_test;
