"""What ends a run or a command, and what was told not to."""

import os
import signal

import pytest

from ralm_jax.signals import Terminated, raise_on_signal, stop_on_signal

ENDS = (signal.SIGTERM, signal.SIGHUP)


def send(number):
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, *ENDS)]


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDS])
def test_a_run_is_told_and_goes_on_to_where_it_can_stop(number):
    before = handlers()
    with stop_on_signal() as stop:
        assert not stop()
        send(number)
        assert stop()
    assert handlers() == before


def test_a_second_signal_acts_at_once():
    with raise_on_signal(), pytest.raises(Terminated) as ended, stop_on_signal():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
    assert ended.value.number == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        send(signal.SIGINT)
        send(signal.SIGINT)


def test_a_terminal_that_closes_may_say_so_twice():
    with raise_on_signal():
        with stop_on_signal() as stop:
            send(signal.SIGHUP)
            send(signal.SIGHUP)
            assert stop()
        tidied = False
        with pytest.raises(Terminated) as ended:
            try:
                send(signal.SIGHUP)
            finally:
                send(signal.SIGHUP)
                tidied = True
        assert tidied and ended.value.number == signal.SIGHUP


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDS])
def test_what_is_ignored_stays_ignored(number):
    """As `nohup` has it, and a shell for what it runs in its background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with raise_on_signal(), stop_on_signal() as stop:
            send(number)
            assert not stop()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
