"""Takes from our own modules, in every process that starts with this folder on its path, what Windows does not have.

Other libraries keep it: they have their own ways there. What is asked for all the same fails as it would there.
"""

import builtins
import os
import sys
import types

OURS = ("graphengine", "graphengine_nodes", "multigen")
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
NAMES = {
    "os": {
        "EX_OK", "O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "P_PID", "WEXITED", "WNOHANG",
        "WNOWAIT", "chown", "chroot", "fchdir", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid",
        "getloadavg", "getpgid", "getpgrp", "getpriority", "getsid", "getuid", "killpg", "lchown", "mkfifo", "mknod",
        "nice", "openpty", "pipe2", "pread", "preadv", "pwrite", "pwritev", "register_at_fork", "sched_getaffinity",
        "sendfile", "setpgid", "setpriority", "setsid", "setuid", "statvfs", "sync", "sysconf", "tcgetpgrp", "uname",
        "wait", "wait3", "wait4", "waitid",
    },
    "signal": {
        "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP",
        "SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
    },
    "socket": {"AF_UNIX", "MSG_DONTWAIT", "MSG_NOSIGNAL", "SCM_RIGHTS", "SO_PEERCRED", "recv_fds", "send_fds"},
    "socketserver": {"ForkingMixIn", "ThreadingUnixStreamServer", "UnixStreamServer"},
}  # fmt: skip


class Bare(types.ModuleType):
    """A module without the names that Windows does not have."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> object:
        if name in NAMES[self.__name__]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}: it is blocked for the test")
        if name in ("supports_dir_fd", "supports_fd", "supports_follow_symlinks"):
            return set()
        if self.__name__ == "os" and name in ("open", "stat", "mkdir", "unlink", "rename", "replace", "link"):
            return without_folders(getattr(self._module, name))
        return getattr(self._module, name)


def without_folders(function):  # type: ignore[no-untyped-def]
    """A function that takes no folder's descriptor."""

    def call(*arguments, **options):  # type: ignore[no-untyped-def]
        if any(options.get(name) is not None for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")):
            raise NotImplementedError(f"{function.__name__}: dir_fd is unavailable here: it is blocked for the test")
        return function(*arguments, **options)

    return call


bare: dict[str, Bare] = {}
real_import = builtins.__import__


def bare_import(name, globals=None, locals=None, fromlist=(), level=0):  # type: ignore[no-untyped-def]
    asking = (globals or {}).get("__name__") or ""
    if level == 0 and asking.partition(".")[0] in OURS:
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}: it is blocked for the test", name=name)
        if name in NAMES:
            return bare.setdefault(name, Bare(real_import(name)))
    return real_import(name, globals, locals, fromlist, level)


builtins.__import__ = bare_import
if marks := os.environ.get("BARE_MARKS"):  # so that a test can see which processes were started so
    with open(os.path.join(marks, str(os.getpid())), "w") as mark:
        mark.write("\0".join(sys.orig_argv))
