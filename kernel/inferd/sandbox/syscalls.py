"""The system calls that a worker may make, with their numbers: name:x86_64:aarch64, "-" where there is none.

What is not named is refused: with EPERM where it was known when this was written, so that a program says what it may
not, and with ENOSYS where it is newer, so that libraries do without, as on the systems that have none of it.
"""

from typing import Final

LAST_KNOWN: Final = 450
"""The largest number that was known, on both."""

_FILES: Final = """
read:0:63 write:1:64 close:3:57 fstat:5:80 stat:4:- lstat:6:- newfstatat:262:79 poll:7:- lseek:8:62
pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70 preadv2:327:286
pwritev2:328:287 access:21:- faccessat:269:48 faccessat2:439:439 open:2:- openat:257:56 openat2:437:437
creat:85:- pipe:22:- pipe2:293:59 select:23:- pselect6:270:72 ppoll:271:73 dup:32:23 dup2:33:-
dup3:292:24 fcntl:72:25 flock:73:32 fsync:74:82 fdatasync:75:83 ftruncate:77:46 fallocate:285:47
getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82:- renameat:264:38
renameat2:316:276 mkdir:83:- mkdirat:258:34 rmdir:84:- link:86:- linkat:265:37 unlink:87:-
unlinkat:263:35 symlink:88:- symlinkat:266:36 readlink:89:- readlinkat:267:78 umask:95:166 statfs:137:43
fstatfs:138:44 statx:332:291 readahead:187:213 fadvise64:221:223 sync_file_range:277:84 sendfile:40:71
splice:275:76 tee:276:77 copy_file_range:326:285 close_range:436:436 getxattr:191:8 lgetxattr:192:9
fgetxattr:193:10 listxattr:194:11 llistxattr:195:12 flistxattr:196:13 ioctl:16:29
"""
"""Files that Landlock judges, and descriptors."""

_MEMORY: Final = """
mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 mremap:25:216 msync:26:227 mincore:27:232
madvise:28:233 mlock:149:228 mlock2:325:284 munlock:150:229 mlockall:151:230 munlockall:152:231
mbind:237:235 set_mempolicy:238:237 get_mempolicy:239:236 set_mempolicy_home_node:450:450
memfd_create:319:279 pkey_mprotect:329:288 pkey_alloc:330:289 pkey_free:331:290
"""
"""Memory."""

_WAITING: Final = """
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136
rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132 pause:34:- nanosleep:35:101
getitimer:36:102 alarm:37:- setitimer:38:103 time:201:- gettimeofday:96:169 timer_create:222:107
timer_settime:223:110 timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111
clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115 epoll_create:213:-
epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441
signalfd:282:- signalfd4:289:74 timerfd_create:283:85 timerfd_settime:286:86 timerfd_gettime:287:87
eventfd:284:- eventfd2:290:19 restart_syscall:219:128
"""
"""Waiting, clocks, and what a process hears."""

_THREADS: Final = """
sched_yield:24:124 exit:60:93 exit_group:231:94 wait4:61:260 waitid:247:95 futex:202:98
futex_waitv:449:449 set_tid_address:218:96 set_robust_list:273:99 get_robust_list:274:100 rseq:334:293
membarrier:324:283 getcpu:309:168 arch_prctl:158:- getpid:39:172 getppid:110:173 gettid:186:178
getuid:102:174 getgid:104:176 geteuid:107:175 getegid:108:177 getpgrp:111:- getpgid:121:155
getsid:124:156 getgroups:115:158 getresuid:118:148 getresgid:120:150 capget:125:90 getrlimit:97:163
setrlimit:160:164 getrusage:98:165 sysinfo:99:179 times:100:153 uname:63:160 getrandom:318:278
getpriority:140:141 sched_getparam:143:121 sched_getscheduler:145:120 sched_get_priority_max:146:125
sched_get_priority_min:147:126 sched_rr_get_interval:148:127 sched_getattr:315:275
sched_getaffinity:204:123
"""
"""Threads, and what a process knows of itself."""

_SOCKETS: Final = """
recvfrom:45:207 recvmsg:47:212 sendmsg:46:211 shutdown:48:210 getsockname:51:204 getpeername:52:205
setsockopt:54:208 getsockopt:55:209
"""
"""The sockets that it has."""

_WALLS: Final = """
landlock_create_ruleset:444:444 landlock_add_rule:445:445 landlock_restrict_self:446:446 seccomp:317:277
pidfd_send_signal:424:424
"""
"""More walls."""

_JUDGED: Final = """
clone:56:220 clone3:435:435 prctl:157:167 prlimit64:302:261 sendto:44:206 socketpair:53:199 kill:62:129
tkill:200:130 tgkill:234:131 pidfd_open:434:434 sched_setaffinity:203:122
"""
"""What is looked at before it is allowed or refused."""

_REFUSED: Final = """
socket:41:198 connect:42:203 ptrace:101:117 execve:59:221 execveat:322:281 unshare:272:97 chmod:90:-
setsid:112:157 bind:49:200 listen:50:201 accept:43:202 accept4:288:242 sendmmsg:307:269 recvmmsg:299:243
inotify_init1:294:26
"""
"""Of those that ask for the network or for programs; for tests and errors."""


def _read(table: str, column: int) -> dict[str, int]:
    rows = (entry.split(":") for entry in table.split())
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def allowed(column: int) -> dict[str, int]:
    """What is allowed whatever its arguments are; numbers by name. The column is 1 for x86_64, 2 for aarch64."""
    return _read(_FILES + _MEMORY + _WAITING + _THREADS + _SOCKETS + _WALLS, column)


def numbers(column: int) -> dict[str, int]:
    """All that have a name here."""
    return allowed(column) | _read(_JUDGED + _REFUSED, column)
