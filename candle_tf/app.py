"""What every main shares: flags made from `Config`, and errors told as one message.

def main(config: Config) -> None: ...

if __name__ == "__main__":
    app.define_config_flags()
    app.run(lambda _: main(app.config_from_flags()))
"""

import logging as standard_logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app as absl_app
from absl import flags, logging

from candle_tf.command_help import HelpGroups, asks_for_help, help_text
from candle_tf.config import Config
from candle_tf.errors import UserError, find_user_error
from candle_tf.files import expand_home, explain_full_disk, explain_path
from candle_tf.runtime_messages import is_harmless_warning, set_child_verbosity
from candle_tf.stages.given_settings import config_of
from candle_tf.terminal import guard_streams

_CONFIG_FILE = "config"
_SHOWN = 100  # characters of a value in a message
_ORIGIN = "The command line"  # of settings, in messages
_OUTPUT_CLOSED = 141  # as of a program that the signal of a closed pipe ends


def define_config_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per setting of `Config`, and --config to begin from a run's config.json."""
    flags.DEFINE_string(
        _CONFIG_FILE,
        None,
        "a run's config.json to begin from; flags given beside it win",
        flag_values=flag_values,
    )
    define = {
        bool: flags.DEFINE_boolean,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for field in Config.fields().values():
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f": one of {', '.join(choices)}" if choices else "")
        if isinstance(field.default, tuple):
            default = [str(item) for item in field.default]
            flags.DEFINE_list(field.name, default, text, flag_values=flag_values)
        else:
            kind = type(field.default)
            define[kind](field.name, field.default, text, flag_values=flag_values)


def config_from_flags(flag_values: flags.FlagValues = flags.FLAGS, **fixed: Any) -> Config:
    """The settings that the command line (and --config, under it) asks for: see `config_of`.

    Args:
        flag_values: the flags.
        **fixed: settings that this main decides itself, whatever the flags say.

    Raises:
        UserError: for values that `Config` refuses, and a plugin that the file of --config names
            and --plugin does not; for an imbalance factor without effect.
    """
    given = _given_settings(flag_values) | fixed
    return config_of(given, _ORIGIN, flag_values[_CONFIG_FILE].value or "")


def _given_settings(flag_values: flags.FlagValues) -> dict[str, Any]:
    """The values of the flags that were given, as JSON has them."""
    present = [flag_values[name] for name in Config.fields() if flag_values[name].present]
    return {
        flag.name: _integers(flag.name, flag.value) if isinstance(flag.value, list) else flag.value
        for flag in present
    }


def _integers(name: str, items: list[str]) -> list[int]:
    try:
        return [int(item) for item in items]
    except ValueError as error:
        raise UserError(
            f"--{name}={','.join(items)} is not a list of whole numbers such as 96,128,160."
        ) from error


def run(
    main: Callable[[list[str]], None],
    takes_arguments: bool = False,
    needs_arguments: bool = False,
    help_groups: HelpGroups | None = None,
    resumes: bool = False,
) -> None:
    """Runs a main under absl; a `UserError` ends it with one message and exit code 2.

    Args:
        main: gets the program's name, and what on the command line is no flag.
        takes_arguments: whether that may be anything; by default it is refused.
        needs_arguments: whether an empty command line shows the help (exit code 2), and starts
            nothing.
        help_groups: what --help shows, see `command_help.help_text`.
        resumes: whether the same command resumes what Ctrl-C stopped, which it then says.
    """

    def main_with_messages(argv: list[str]) -> None:
        logging.use_absl_handler()
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().setFormatter(None)
        if logging.get_verbosity() < logging.DEBUG:
            logging.get_absl_handler().addFilter(_is_ours)
        logging.get_absl_handler().python_handler.stream = sys.stderr
        set_child_verbosity()
        sys.unraisablehook = _interrupt_again
        if len(argv) > 1 and not takes_arguments:
            _fail(f"{argv[1]!r} is not a flag; flags begin with --.")
        try:
            main(argv)
        except UserError as error:
            _fail(str(error))
        except BrokenPipeError:
            if _is_output_closed():
                sys.exit(_OUTPUT_CLOSED)
            raise
        except KeyboardInterrupt:
            advice = " The same command resumes from the last checkpoint." if resumes else ""
            _fail(f"Stopped.{advice}", code=130)
        except Exception as error:
            explained = explain_full_disk(error) or explain_path(error) or find_user_error(error)
            if explained:
                _fail(str(explained))
            raise

    # `bazel run` starts in a folder of its own; relative paths are of the user's.
    if "BUILD_WORKING_DIRECTORY" in os.environ:
        os.chdir(os.environ["BUILD_WORKING_DIRECTORY"])
    # A terminal shows codes of what it cannot show, or should not obey.
    guard_streams()

    def parse_or_help(argv: list[str]) -> list[str]:
        if asks_for_help(argv[1:]):
            print(help_text(main.__module__, help_groups, flags.FLAGS))
            sys.exit(0)
        if needs_arguments and len(argv) == 1:
            print(help_text(main.__module__, help_groups, flags.FLAGS), file=sys.stderr)
            sys.exit(2)
        return _parse(argv)

    absl_app.run(main_with_messages, flags_parser=parse_or_help)


def _interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python drops a KeyboardInterrupt that a finalizer or a weak reference's callback is stopped
    by, and the work would run to its end: it is raised again, after the callback."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    # Once all work is done there is nothing to stop, and no thread begins any more.
    if sys.is_finalizing():
        return
    # Not at once: it would stop this hook, and be dropped as well.
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])
    timer.daemon = True
    timer.start()


def _is_output_closed() -> bool:
    """Whether nobody reads standard output any more, as after `| head`; it is discarded then."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(events & select.POLLERR for _, events in output.poll(0)):
        return False
    # Else the interpreter would complain of what is left, at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _parse(argv: list[str]) -> list[str]:
    """Reads the command line into the flags; what it does not understand ends the process."""
    try:
        arguments = flags.FLAGS([_installed_flagfile(argument) for argument in argv])
        _expand_homes(flags.FLAGS)
        return [expand_home(argument) for argument in arguments]
    except SystemExit:  # absl ends its own --helpfull with 1
        sys.exit(0)
    except UserError as error:
        _fail(str(error))
    except flags.IllegalFlagValueError as error:
        _fail(_illegal_value(str(error)))
    except flags.Error as error:
        _fail(str(error).removeprefix("ERROR:: "))
    except RecursionError:
        _fail("the flagfiles are nested too deeply: one names another, and that one the next.")
    except UnicodeDecodeError as error:  # absl reads flagfiles as UTF-8
        _fail(f"a flagfile is not a text file: {error}")


def _expand_homes(flag_values: flags.FlagValues) -> None:
    """Expands a leading "~" of all flags; no flag but a path begins with one."""
    for name in flag_values:
        flag = flag_values[name]
        if isinstance(flag.value, str):
            flag.value = expand_home(flag.value)


def _installed_flagfile(argument: str) -> str:
    """--flagfile=configs/NAME.cfg, of the configurations that come with an installed package.

    A file that is there where the argument says goes before.
    """
    option, _, given = argument.partition("=")
    if option.lstrip("-") != "flagfile" or not given or Path(given).exists():
        return argument
    installed = Path(__file__).parent / "configs" / Path(given).name
    is_ours = Path(given).parent.name == "configs" and installed.is_file()
    return f"{option}={installed}" if is_ours else argument


def _illegal_value(message: str) -> str:
    """absl's "flag --epochs=abc: invalid literal for int() ..." in plain words."""
    given, _, reason = message.removeprefix("flag ").partition(": ")
    name, _, value = given.removeprefix("--").partition("=")
    words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    kind = flags.FLAGS[name].flag_type() if name in flags.FLAGS else ""
    given = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
    if kind not in words:
        return f"{given}: {reason}"
    parser = flags.FLAGS[name].parser
    if not _is_outside_bounds(parser, value):
        return f"{given} is not {words[kind]}."
    bounds = {"at least": parser.lower_bound, "at most": parser.upper_bound}
    allowed = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    return f"{given} is out of range; it must be {' and '.join(allowed)}."


def _is_outside_bounds(parser: Any, value: str) -> bool:
    """Whether a flag's text is a number of its type, but not one within its bounds."""
    if not hasattr(parser, "is_outside_bounds"):
        return False
    try:
        return bool(parser.is_outside_bounds(parser.convert(value)))
    except ValueError:
        return False


def _is_ours(record: standard_logging.LogRecord) -> bool:
    """Keeps TensorFlow's own notices, which it logs through absl too, out of a run's progress."""
    package = Path(__file__).parent
    if any(
        Path(record.pathname).is_relative_to(each) for each in (package, package.parent / "tools")
    ):
        return True
    return record.levelno >= standard_logging.WARNING and not is_harmless_warning(record)


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
