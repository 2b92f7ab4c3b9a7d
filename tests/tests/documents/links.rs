//! Relative links and anchors.

use std::path::Path;

use crate::markdown::Document;

/// The broken links of a document.
pub(crate) fn broken(root: &Path, document: &Document) -> Vec<String> {
    let links = document.links().filter(|(_, target)| !target.contains("://") && !target.starts_with("mailto:"));
    let broken = links.filter(|(_, target)| !leads_somewhere(root, document, target));
    broken.map(|(at, target)| format!("{}:{at}: {target}", document.path)).collect()
}

fn leads_somewhere(root: &Path, document: &Document, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let folder = Path::new(&document.path).parent().unwrap();
    let found = folder.join(path);
    if !path.is_empty() && !root.join(&found).exists() {
        return false;
    }
    match anchor {
        None => true,
        Some(anchor) if path.is_empty() => document.anchors().iter().any(|known| known == anchor),
        Some(anchor) if path.ends_with(".md") => {
            Document::read(root, &found.to_string_lossy()).anchors().iter().any(|known| known == anchor)
        }
        // A line number of a source file changes with the next edit.
        Some(_) => false,
    }
}
