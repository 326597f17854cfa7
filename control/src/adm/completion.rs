//! Completions for shells: verbs, ipvsadm's options, schedulers.

use clap::ValueEnum;
use dataplane::{ipvsadm::option_words, sched};

/// Which shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script that a shell reads.
pub(super) fn script(shell: Shell, verbs: &[&str]) -> String {
    let options: Vec<_> = option_words().collect();
    let verbs = verbs.join(" ");
    match shell {
        Shell::Bash => bash(&verbs, &options.join(" ")),
        Shell::Zsh => {
            let bash = bash(&verbs, &options.join(" "));
            format!("autoload -U +X bashcompinit && bashcompinit\n{bash}")
        }
        Shell::Fish => {
            let mut out = format!(
                "complete -c xvsadm -f\n\
                 complete -c xvsadm -n __fish_use_subcommand -a '{verbs}'\n"
            );
            for option in options {
                out.push_str(&match option.strip_prefix("--") {
                    Some(long) => format!("complete -c xvsadm -l {long}\n"),
                    None => format!("complete -c xvsadm -s {}\n", &option[1..]),
                });
            }
            let schedulers = schedulers();
            out.push_str(&format!("complete -c xvsadm -s s -l scheduler -xa '{schedulers}'\n"));
            out
        }
    }
}

fn bash(verbs: &str, options: &str) -> String {
    let schedulers = schedulers();
    format!(
        r#"_xvsadm() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    case "$before" in
        -s | --scheduler) COMPREPLY=($(compgen -W "{schedulers}" -- "$word")); return ;;
        --tun-type) COMPREPLY=($(compgen -W "ipip gue gre" -- "$word")); return ;;
        --file) COMPREPLY=($(compgen -f -- "$word")); return ;;
        -f) if [[ ${{COMP_WORDS[1]}} == apply ]]; then COMPREPLY=($(compgen -f -- "$word")); fi; return ;;
    esac
    if [[ $COMP_CWORD -eq 1 && $word != -* ]]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
    else
        COMPREPLY=($(compgen -W "--server --compat --full {options}" -- "$word"))
    fi
}}
complete -F _xvsadm xvsadm
"#
    )
}

fn schedulers() -> String {
    sched::Scheduler::NAMES.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_verbs_options_and_schedulers() {
        for shell in Shell::value_variants() {
            let script = script(*shell, &["info", "stats"]);
            for word in ["info stats", "tun-remcsum", "wlc"] {
                assert!(script.contains(word), "{shell:?} lacks {word}");
            }
        }
    }
}
