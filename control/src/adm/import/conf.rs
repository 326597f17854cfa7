//! The grammar of keepalived.conf: lines of words, blocks in braces, comments from `#` or `!` on.
//!
//! Source: keepalived.conf(5).

/// A line with its words, and the block that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Counted from 1.
    pub(super) line: usize,
    /// At least one.
    pub(super) words: Vec<String>,
    /// What stands in braces behind it.
    pub(super) block: Option<Vec<Self>>,
}

/// Blocks in blocks at most.
const DEPTH_MAX: usize = 16;

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// Reads a whole file.
///
/// # Errors
///
/// A brace has no other one, or a quotation no end; with the line.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    // The blocks that are open, outermost first, each with the nodes it has so far.
    let mut open = vec![Vec::new()];
    let mut words = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        for token in tokens(text).map_err(|error| format!("line {line}: {error}"))? {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => begin(&mut open, &mut words, line)?,
                Token::Close => {
                    end(&mut open, &mut words, line);
                    let block = open.pop().unwrap_or_default();
                    let above = open.last_mut().and_then(|above: &mut Vec<Node>| above.last_mut());
                    let above = above.ok_or_else(|| format!("line {line}: `}}` closes nothing"))?;
                    above.block = Some(block);
                }
                Token::End => end(&mut open, &mut words, line),
            }
        }
    }
    match (open.pop(), open.last().and_then(|above| above.last())) {
        (Some(nodes), None) if open.is_empty() => Ok(nodes),
        (_, Some(node)) => Err(format!("line {}: `{}` is not closed", node.line, node.words[0])),
        _ => Err("`}` closes nothing".to_owned()),
    }
}

/// A line is over.
fn end(open: &mut [Vec<Node>], words: &mut Vec<String>, line: usize) {
    if let Some(nodes) = open.last_mut().filter(|_| !words.is_empty()) {
        nodes.push(Node { line, words: std::mem::take(words), block: None });
    }
}

/// A block begins: of the words before it, on this line or the one before.
fn begin(open: &mut Vec<Vec<Node>>, words: &mut Vec<String>, line: usize) -> Result<(), String> {
    end(open, words, line);
    let is_free = |node: &Node| node.block.is_none();
    if !open.last().and_then(|nodes| nodes.last()).is_some_and(is_free) {
        return Err(format!("line {line}: `{{` belongs to nothing"));
    }
    if open.len() > DEPTH_MAX {
        return Err(format!("line {line}: more than {DEPTH_MAX} blocks in blocks"));
    }
    open.push(Vec::new());
    Ok(())
}

/// What stands on a line, and its end.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let flush = |word: &mut String, out: &mut Vec<Token>| {
        if !word.is_empty() {
            out.push(Token::Word(std::mem::take(word)));
        }
    };
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => word.push(c),
            '#' | '!' => break,
            '{' | '}' => {
                flush(&mut word, &mut out);
                out.push(if c == '{' { Token::Open } else { Token::Close });
            }
            _ if c.is_whitespace() => flush(&mut word, &mut out),
            _ => word.push(c),
        }
    }
    if quoted {
        return Err("a quotation has no end".to_owned());
    }
    flush(&mut word, &mut out);
    out.push(Token::End);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_words_and_comments_are_told_apart() {
        let text = "a 1 \"b c\" # no\n! no\nd {\n  e\n  f { g 2 }\n}\nh\n{\n i\n}\n";
        let nodes = parse(text).unwrap();
        let told: Vec<_> = nodes.iter().map(|node| (node.line, node.words.join("|"))).collect();
        assert_eq!(told, [(1, "a|1|b c".into()), (3, "d".into()), (7, "h".to_owned())]);
        let d = nodes[1].block.as_ref().unwrap();
        assert_eq!((d[0].words[0].as_str(), d[1].words[0].as_str()), ("e", "f"));
        assert_eq!(d[1].block.as_ref().unwrap()[0].words, ["g", "2"]);
        assert_eq!(nodes[2].block.as_ref().unwrap()[0].words, ["i"]);
    }

    #[test]
    fn braces_without_another_are_found() {
        for (text, error) in [
            ("a {\n b\n", "line 1: `a` is not closed"),
            ("a\n}\n", "line 2: `}` closes nothing"),
            ("{\n}\n", "line 1: `{` belongs to nothing"),
            ("a \"b\n", "line 1: a quotation has no end"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
    }
}
