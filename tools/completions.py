"""Write completions for bash and zsh from a script's help page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tools.help_pages import Option, Page

FILES = re.compile(r"FILE|PICTURE|<file>|<ticket>")
"""Values and arguments that are file names."""

_BASH = """\
# Completion for {name}, made from its help pages.
_{function}() {{
    local words="" files="" values="" arguments=""
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    if (( COMP_CWORD == 1 )); then
        words="{commands} $words"
        arguments=""
    fi
    if [[ $files == *" $3 "* ]] || [[ -n $arguments && $2 != -* && $values != *" $3 "* ]]; then
        compopt -o default
    elif [[ $values != *" $3 "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$2")
    fi
}}
complete -F _{function} {name}
"""


def bash_completion(name: str, page: Page) -> str:
    """Return the completion of a script for bash.

    Args:
        name: of the script.
        page: its help page.
    """
    commands = " ".join(page.commands)
    cases = [_bash_case(command, own) for command, own in page.commands.items() if own is not None]
    if "help" in page.commands:
        cases.append(f'    help) words="{commands}" ;;')
    cases.append(_bash_case("*", page))
    return _BASH.format(name=name, function=_function(name), commands=commands, cases="\n".join(cases))


def _bash_case(pattern: str, page: Page) -> str:
    words = [name for option in page.options() for name in _best_names(option)]
    files = [name for option in page.options() if FILES.fullmatch(option.value) for name in option.names]
    values = [name for option in page.options() if option.value for name in option.names]
    return (
        f'    {pattern})\n        words="{" ".join(words)}"\n        files=" {" ".join(files)} "'
        f' values=" {" ".join(values)} "{" arguments=files" if _takes_files(page) else ""}\n        ;;'
    )


def zsh_completion(name: str, page: Page) -> str:
    """Return the completion of a script for zsh.

    Args:
        name: of the script.
        page: its help page.
    """
    lines = [f"#compdef {name}", f"# Completion for {name}, made from its help pages.", ""]
    if not page.commands:
        return "\n".join([*lines, *_zsh_arguments(page)]) + "\n"
    described = [f"{command}:{text}".rstrip(":") for command, text in page.descriptions().items()]
    describe = f"_describe -t commands '{name} command' commands"
    lines += [
        "local -a commands=(",
        *(f"    {_quote(text)}" for text in described),
        ")",
        f"(( CURRENT > 2 )) || {describe}",
        "case $words[2] in",
    ]
    for command, own in page.commands.items():
        if own is not None:
            shift = "        shift words; (( CURRENT-- ))"
            lines += [
                f"    {command})",
                shift,
                *(f"        {line}" for line in _zsh_arguments(own)),
                "        ;;",
            ]
    if "help" in page.commands:
        lines += [f"    help) {describe} ;;"]
    lines += ["    *)", *(f"        {line}" for line in _zsh_arguments(page)), "        ;;", "esac"]
    return "\n".join(lines) + "\n"


def _zsh_arguments(page: Page) -> Iterator[str]:
    """Yield a call of _arguments with the options of a page."""
    yield "_arguments -s \\"
    for option in page.options():
        before = "*" if option.repeatable else f"({' '.join(option.names)})"
        names = f"{{{','.join(option.names)}}}" if len(option.names) > 1 else option.names[0]
        action = "_files" if FILES.fullmatch(option.value) else " "
        value = f":{_literal(option.value)}:{action}" if option.value else ""
        yield f"    {_quote(before)}{names}{_quote(f'[{_literal(option.text)}]{value}')} \\"
    yield "    '*:file:_files'" if _takes_files(page) else "    '*: : '"


def _takes_files(page: Page) -> bool:
    """Return whether a program takes a file name as an argument."""
    return any(FILES.fullmatch(word) for line in page.usage for word in re.findall(r"<[\w-]+>", line))


def _best_names(option: Option) -> Iterable[str]:
    """Return the long name of an option, or the short one if it has no other."""
    return [name for name in option.names if name.startswith("--")] or option.names


def _literal(text: str) -> str:
    """Escape what has a meaning in an argument of _arguments."""
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _function(name: str) -> str:
    return name.replace("-", "_")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
