"""The file `codes`: names for the codes of other machines. Users may read and edit it.

    NAME CODE

Empty lines and lines that begin with # are ignored.
"""

from __future__ import annotations

from offset_common.command_line import did_you_mean
from offset_common.errors import FileError, UsageError, quote
from offset_common.forward.code import Code, looks_like_code, parse_code
from offset_common.forward.config_directory import ConfigDirectory
from offset_common.forward.messages import is_name

FILE = "codes"
_HEADING = "# Machines that stforward can reach, with their codes:\n# NAME CODE\n"


class KnownCodes:
    """The file.

    Args:
        directory: the directory that contains it.
    """

    def __init__(self, directory: ConfigDirectory) -> None:
        self._directory = directory

    def load(self) -> dict[str, Code]:
        """Return all codes by name.

        Raises:
            FileError: the file cannot be read, or a line is invalid.
        """
        found: dict[str, Code] = {}
        for number, line in enumerate(self._directory.read(FILE).splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    name, code = _parse(line.split())
                except UsageError as error:
                    where = self._directory.path / FILE
                    raise FileError(where, f"line {number}: {error}") from None
                found.setdefault(name, code)
        return found

    def find(self, text: str) -> Code:
        """Return the code that the user gave, in full or by its name.

        Raises:
            UsageError: the text is neither.
            FileError: the file cannot be read.
        """
        if looks_like_code(text):
            return parse_code(text)
        known = self.load()
        if text not in known:
            hint = did_you_mean(text, known) or "; give the code that `stforward share` printed there"
            raise UsageError(f"no machine is known as {text[:40]!r}{hint}")
        return known[text]

    def name_of(self, code: Code) -> str:
        """Return the name of a code, or an empty string; raise FileError as `load` does."""
        return next((name for name, known in self.load().items() if known == code), "")

    def add(self, code: Code, wanted: str) -> str:
        """Remember a code under a name; return the name. A code may have several.

        Args:
            code: another machine's code.
            wanted: the name; if another code has it, a number is added.

        Raises:
            FileError: the file cannot be read or written.
        """
        with self._directory.changing(FILE):
            known = self.load()
            names = [wanted, *(f"{wanted[:28]}-{number}" for number in range(2, len(known) + 3))]
            name = next(each for each in names if known.get(each, code) == code)
            if name not in known:
                before = self._directory.read(FILE) or _HEADING
                if not before.endswith("\n"):
                    before += "\n"
                self._directory.write(FILE, f"{before}{name} {code}\n")
        return name


def _parse(words: list[str]) -> tuple[str, Code]:
    if len(words) != 2 or not is_name(words[0]):
        raise UsageError("it is not a name and a code; a name has up to 32 letters, digits, '.', '_' or '-'")
    if not looks_like_code(words[1]):
        raise UsageError(f"{quote(words[1])} is not a code; copy what `stforward share` printed there")
    return words[0], parse_code(words[1])
