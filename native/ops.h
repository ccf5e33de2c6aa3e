/* The operations of a plan: numbers, arguments, decoders.
 * Generated from optable.py by scripts/ops; do not edit. */
#ifndef ORLOP_OPS_H
#define ORLOP_OPS_H

#define SKIP_MISSING 1
#define SKIP_DENIED 2
#define SKIP_UNSUPPORTED 4
#define SKIP_EXISTS 8

#define OP_Open 1
#define OP_Close 2
#define OP_Dup 3
#define OP_CloseRange 4
#define OP_Socket 5
#define OP_SendFd 6
#define OP_Connect 7
#define OP_Setns 10
#define OP_Unshare 11
#define OP_Clone 12
#define OP_Setsid 13
#define OP_Keyring 14
#define OP_SetHostname 20
#define OP_SetDomainname 21
#define OP_LinkUp 22
#define OP_Mkdir 30
#define OP_Target 31
#define OP_Mknod 32
#define OP_Symlink 33
#define OP_WriteFile 34
#define OP_Chdir 35
#define OP_Umask 36
#define OP_Chown 37
#define OP_Mount 40
#define OP_Fsopen 41
#define OP_Fsconfig 42
#define OP_Fsmount 43
#define OP_OpenTree 44
#define OP_MountSetattr 45
#define OP_MoveMount 46
#define OP_Propagation 47
#define OP_Mask 48
#define OP_PivotRoot 49
#define OP_MoveRoot 50
#define OP_Chroot 51
#define OP_Copyup 52
#define OP_Fsmode 54
#define OP_Umount 53
#define OP_Setxattr 55
#define OP_Pty 60
#define OP_Ctty 61
#define OP_SetIds 70
#define OP_Groups 71
#define OP_BoundingSet 72
#define OP_Capset 73
#define OP_Ambient 74
#define OP_Prctl 75
#define OP_Rlimit 76
#define OP_Seccomp 77
#define OP_Scheduler 78
#define OP_IoPriority 79
#define OP_Affinity 80
#define OP_Personality 81
#define OP_MemoryPolicy 82
#define OP_Sync 90
#define OP_AwaitStart 91
#define OP_Hook 92
#define OP_FindExec 93
#define OP_Execve 94
#define OP_Exit 95

/* X(NAME) for each of them. */
#define EACH_OP(X) \
  X(Open) \
  X(Close) \
  X(Dup) \
  X(CloseRange) \
  X(Socket) \
  X(SendFd) \
  X(Connect) \
  X(Setns) \
  X(Unshare) \
  X(Clone) \
  X(Setsid) \
  X(Keyring) \
  X(SetHostname) \
  X(SetDomainname) \
  X(LinkUp) \
  X(Mkdir) \
  X(Target) \
  X(Mknod) \
  X(Symlink) \
  X(WriteFile) \
  X(Chdir) \
  X(Umask) \
  X(Chown) \
  X(Mount) \
  X(Fsopen) \
  X(Fsconfig) \
  X(Fsmount) \
  X(OpenTree) \
  X(MountSetattr) \
  X(MoveMount) \
  X(Propagation) \
  X(Mask) \
  X(PivotRoot) \
  X(MoveRoot) \
  X(Chroot) \
  X(Copyup) \
  X(Fsmode) \
  X(Umount) \
  X(Setxattr) \
  X(Pty) \
  X(Ctty) \
  X(SetIds) \
  X(Groups) \
  X(BoundingSet) \
  X(Capset) \
  X(Ambient) \
  X(Prctl) \
  X(Rlimit) \
  X(Seccomp) \
  X(Scheduler) \
  X(IoPriority) \
  X(Affinity) \
  X(Personality) \
  X(MemoryPolicy) \
  X(Sync) \
  X(AwaitStart) \
  X(Hook) \
  X(FindExec) \
  X(Execve) \
  X(Exit) \

struct Open { int32_t slot; int32_t at; const char *path; uint32_t flags; uint32_t mode; uint64_t magic; };
struct Close { int32_t slot; };
struct Dup { int32_t slot; int32_t fd; };
struct CloseRange { uint32_t first; uint32_t last; uint32_t flags; };
struct Socket { int32_t slot; int32_t domain; int32_t type; int32_t protocol; };
struct SendFd { int32_t socket; int32_t fd; struct bytes text; };
struct Connect { int32_t slot; const char *path; };
struct Setns { int32_t slot; uint32_t nstype; };
struct Unshare { uint64_t flags; };
struct Clone { uint64_t flags; int32_t cgroup; };
struct Setsid { char none; };
struct Keyring { const char *name; };
struct SetHostname { const char *name; };
struct SetDomainname { const char *name; };
struct LinkUp { const char *name; };
struct Mkdir { int32_t at; const char *path; uint32_t mode; uint32_t uid; uint32_t gid; };
struct Target { int32_t at; const char *path; int32_t like; uint32_t flags; };
struct Mknod { int32_t at; const char *path; uint32_t mode; uint32_t major; uint32_t minor; uint32_t uid; uint32_t gid; };
struct Symlink { int32_t at; const char *path; const char *target; };
struct WriteFile { int32_t at; const char *path; uint32_t flags; uint64_t magic; struct bytes data; };
struct Chdir { int32_t at; const char *path; };
struct Umask { uint32_t mask; };
struct Chown { int32_t slot; uint32_t uid; uint32_t gid; };
struct Mount { const char *source; int32_t at; const char *target; const char *fstype; uint64_t flags; const char *data; };
struct Fsopen { int32_t slot; const char *fstype; };
struct Fsconfig { int32_t slot; uint32_t command; const char *key; const char *value; };
struct Fsmount { int32_t slot; int32_t context; uint32_t attributes; };
struct OpenTree { int32_t slot; int32_t at; const char *path; uint32_t flags; };
struct MountSetattr { int32_t slot; uint32_t flags; uint64_t set; uint64_t clear; uint64_t propagation; int32_t userns; };
struct MoveMount { int32_t slot; int32_t at; const char *target; };
struct Propagation { int32_t at; const char *path; uint64_t flags; };
struct Mask { int32_t at; const char *path; int32_t null; };
struct PivotRoot { int32_t root; };
struct MoveRoot { int32_t root; };
struct Chroot { int32_t root; };
struct Copyup { int32_t slot; int32_t at; const char *path; };
struct Fsmode { int32_t slot; int32_t at; const char *path; };
struct Umount { int32_t at; const char *path; uint32_t flags; };
struct Setxattr { int32_t at; const char *path; const char *name; struct bytes value; };
struct Pty { int32_t master; int32_t slave; int32_t at; const char *path; uint32_t rows; uint32_t columns; uint32_t uid; };
struct Ctty { int32_t slot; };
struct SetIds { uint32_t uid; uint32_t gid; };
struct Groups { struct words gids; };
struct BoundingSet { uint64_t keep; };
struct Capset { uint64_t permitted; uint64_t effective; uint64_t inheritable; };
struct Ambient { uint64_t raise_; };
struct Prctl { int32_t option; uint64_t arg2; uint64_t arg3; uint64_t arg4; uint64_t arg5; };
struct Rlimit { uint32_t resource; uint64_t soft; uint64_t hard; };
struct Seccomp { uint32_t flags; int32_t listener; struct bytes program; };
struct Scheduler { uint32_t policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime; uint64_t deadline; uint64_t period; };
struct IoPriority { uint32_t value; };
struct Affinity { struct bytes cpus; };
struct Personality { uint64_t value; };
struct MemoryPolicy { uint32_t mode; struct bytes nodes; uint64_t bits; };
struct Sync { const char *name; struct words fds; };
struct AwaitStart { int32_t slot; };
struct Hook { const char *path; char **args; char **env; uint32_t timeout_ms; struct bytes stdin; };
struct FindExec { char **candidates; };
struct Execve { char **candidates; char **argv; char **env; };
struct Exit { uint32_t code; };

/* op_NAME(arguments) is defined by the program: 0, or a negative errno. */
static int op_Open(const struct Open *a);
static int op_Close(const struct Close *a);
static int op_Dup(const struct Dup *a);
static int op_CloseRange(const struct CloseRange *a);
static int op_Socket(const struct Socket *a);
static int op_SendFd(const struct SendFd *a);
static int op_Connect(const struct Connect *a);
static int op_Setns(const struct Setns *a);
static int op_Unshare(const struct Unshare *a);
static int op_Clone(const struct Clone *a);
static int op_Setsid(const struct Setsid *a);
static int op_Keyring(const struct Keyring *a);
static int op_SetHostname(const struct SetHostname *a);
static int op_SetDomainname(const struct SetDomainname *a);
static int op_LinkUp(const struct LinkUp *a);
static int op_Mkdir(const struct Mkdir *a);
static int op_Target(const struct Target *a);
static int op_Mknod(const struct Mknod *a);
static int op_Symlink(const struct Symlink *a);
static int op_WriteFile(const struct WriteFile *a);
static int op_Chdir(const struct Chdir *a);
static int op_Umask(const struct Umask *a);
static int op_Chown(const struct Chown *a);
static int op_Mount(const struct Mount *a);
static int op_Fsopen(const struct Fsopen *a);
static int op_Fsconfig(const struct Fsconfig *a);
static int op_Fsmount(const struct Fsmount *a);
static int op_OpenTree(const struct OpenTree *a);
static int op_MountSetattr(const struct MountSetattr *a);
static int op_MoveMount(const struct MoveMount *a);
static int op_Propagation(const struct Propagation *a);
static int op_Mask(const struct Mask *a);
static int op_PivotRoot(const struct PivotRoot *a);
static int op_MoveRoot(const struct MoveRoot *a);
static int op_Chroot(const struct Chroot *a);
static int op_Copyup(const struct Copyup *a);
static int op_Fsmode(const struct Fsmode *a);
static int op_Umount(const struct Umount *a);
static int op_Setxattr(const struct Setxattr *a);
static int op_Pty(const struct Pty *a);
static int op_Ctty(const struct Ctty *a);
static int op_SetIds(const struct SetIds *a);
static int op_Groups(const struct Groups *a);
static int op_BoundingSet(const struct BoundingSet *a);
static int op_Capset(const struct Capset *a);
static int op_Ambient(const struct Ambient *a);
static int op_Prctl(const struct Prctl *a);
static int op_Rlimit(const struct Rlimit *a);
static int op_Seccomp(const struct Seccomp *a);
static int op_Scheduler(const struct Scheduler *a);
static int op_IoPriority(const struct IoPriority *a);
static int op_Affinity(const struct Affinity *a);
static int op_Personality(const struct Personality *a);
static int op_MemoryPolicy(const struct MemoryPolicy *a);
static int op_Sync(const struct Sync *a);
static int op_AwaitStart(const struct AwaitStart *a);
static int op_Hook(const struct Hook *a);
static int op_FindExec(const struct FindExec *a);
static int op_Execve(const struct Execve *a);
static int op_Exit(const struct Exit *a);

static int perform(uint16_t code, struct reader *r) {
  switch (code) {
    case OP_Open: {
      struct Open a; a.slot = take_i32(r); a.at = take_i32(r); a.path = take_str(r); a.flags = take_u32(r); a.mode = take_u32(r); a.magic = take_u64(r);
      return finished(r) ? op_Open(&a) : -EBADMSG;
    }
    case OP_Close: {
      struct Close a; a.slot = take_i32(r);
      return finished(r) ? op_Close(&a) : -EBADMSG;
    }
    case OP_Dup: {
      struct Dup a; a.slot = take_i32(r); a.fd = take_i32(r);
      return finished(r) ? op_Dup(&a) : -EBADMSG;
    }
    case OP_CloseRange: {
      struct CloseRange a; a.first = take_u32(r); a.last = take_u32(r); a.flags = take_u32(r);
      return finished(r) ? op_CloseRange(&a) : -EBADMSG;
    }
    case OP_Socket: {
      struct Socket a; a.slot = take_i32(r); a.domain = take_i32(r); a.type = take_i32(r); a.protocol = take_i32(r);
      return finished(r) ? op_Socket(&a) : -EBADMSG;
    }
    case OP_SendFd: {
      struct SendFd a; a.socket = take_i32(r); a.fd = take_i32(r); a.text = take_bytes(r);
      return finished(r) ? op_SendFd(&a) : -EBADMSG;
    }
    case OP_Connect: {
      struct Connect a; a.slot = take_i32(r); a.path = take_str(r);
      return finished(r) ? op_Connect(&a) : -EBADMSG;
    }
    case OP_Setns: {
      struct Setns a; a.slot = take_i32(r); a.nstype = take_u32(r);
      return finished(r) ? op_Setns(&a) : -EBADMSG;
    }
    case OP_Unshare: {
      struct Unshare a; a.flags = take_u64(r);
      return finished(r) ? op_Unshare(&a) : -EBADMSG;
    }
    case OP_Clone: {
      struct Clone a; a.flags = take_u64(r); a.cgroup = take_i32(r);
      return finished(r) ? op_Clone(&a) : -EBADMSG;
    }
    case OP_Setsid: {
      struct Setsid a; a.none = 0;
      return finished(r) ? op_Setsid(&a) : -EBADMSG;
    }
    case OP_Keyring: {
      struct Keyring a; a.name = take_str(r);
      return finished(r) ? op_Keyring(&a) : -EBADMSG;
    }
    case OP_SetHostname: {
      struct SetHostname a; a.name = take_str(r);
      return finished(r) ? op_SetHostname(&a) : -EBADMSG;
    }
    case OP_SetDomainname: {
      struct SetDomainname a; a.name = take_str(r);
      return finished(r) ? op_SetDomainname(&a) : -EBADMSG;
    }
    case OP_LinkUp: {
      struct LinkUp a; a.name = take_str(r);
      return finished(r) ? op_LinkUp(&a) : -EBADMSG;
    }
    case OP_Mkdir: {
      struct Mkdir a; a.at = take_i32(r); a.path = take_str(r); a.mode = take_u32(r); a.uid = take_u32(r); a.gid = take_u32(r);
      return finished(r) ? op_Mkdir(&a) : -EBADMSG;
    }
    case OP_Target: {
      struct Target a; a.at = take_i32(r); a.path = take_str(r); a.like = take_i32(r); a.flags = take_u32(r);
      return finished(r) ? op_Target(&a) : -EBADMSG;
    }
    case OP_Mknod: {
      struct Mknod a; a.at = take_i32(r); a.path = take_str(r); a.mode = take_u32(r); a.major = take_u32(r); a.minor = take_u32(r); a.uid = take_u32(r); a.gid = take_u32(r);
      return finished(r) ? op_Mknod(&a) : -EBADMSG;
    }
    case OP_Symlink: {
      struct Symlink a; a.at = take_i32(r); a.path = take_str(r); a.target = take_str(r);
      return finished(r) ? op_Symlink(&a) : -EBADMSG;
    }
    case OP_WriteFile: {
      struct WriteFile a; a.at = take_i32(r); a.path = take_str(r); a.flags = take_u32(r); a.magic = take_u64(r); a.data = take_bytes(r);
      return finished(r) ? op_WriteFile(&a) : -EBADMSG;
    }
    case OP_Chdir: {
      struct Chdir a; a.at = take_i32(r); a.path = take_str(r);
      return finished(r) ? op_Chdir(&a) : -EBADMSG;
    }
    case OP_Umask: {
      struct Umask a; a.mask = take_u32(r);
      return finished(r) ? op_Umask(&a) : -EBADMSG;
    }
    case OP_Chown: {
      struct Chown a; a.slot = take_i32(r); a.uid = take_u32(r); a.gid = take_u32(r);
      return finished(r) ? op_Chown(&a) : -EBADMSG;
    }
    case OP_Mount: {
      struct Mount a; a.source = take_str(r); a.at = take_i32(r); a.target = take_str(r); a.fstype = take_str(r); a.flags = take_u64(r); a.data = take_str(r);
      return finished(r) ? op_Mount(&a) : -EBADMSG;
    }
    case OP_Fsopen: {
      struct Fsopen a; a.slot = take_i32(r); a.fstype = take_str(r);
      return finished(r) ? op_Fsopen(&a) : -EBADMSG;
    }
    case OP_Fsconfig: {
      struct Fsconfig a; a.slot = take_i32(r); a.command = take_u32(r); a.key = take_str(r); a.value = take_str(r);
      return finished(r) ? op_Fsconfig(&a) : -EBADMSG;
    }
    case OP_Fsmount: {
      struct Fsmount a; a.slot = take_i32(r); a.context = take_i32(r); a.attributes = take_u32(r);
      return finished(r) ? op_Fsmount(&a) : -EBADMSG;
    }
    case OP_OpenTree: {
      struct OpenTree a; a.slot = take_i32(r); a.at = take_i32(r); a.path = take_str(r); a.flags = take_u32(r);
      return finished(r) ? op_OpenTree(&a) : -EBADMSG;
    }
    case OP_MountSetattr: {
      struct MountSetattr a; a.slot = take_i32(r); a.flags = take_u32(r); a.set = take_u64(r); a.clear = take_u64(r); a.propagation = take_u64(r); a.userns = take_i32(r);
      return finished(r) ? op_MountSetattr(&a) : -EBADMSG;
    }
    case OP_MoveMount: {
      struct MoveMount a; a.slot = take_i32(r); a.at = take_i32(r); a.target = take_str(r);
      return finished(r) ? op_MoveMount(&a) : -EBADMSG;
    }
    case OP_Propagation: {
      struct Propagation a; a.at = take_i32(r); a.path = take_str(r); a.flags = take_u64(r);
      return finished(r) ? op_Propagation(&a) : -EBADMSG;
    }
    case OP_Mask: {
      struct Mask a; a.at = take_i32(r); a.path = take_str(r); a.null = take_i32(r);
      return finished(r) ? op_Mask(&a) : -EBADMSG;
    }
    case OP_PivotRoot: {
      struct PivotRoot a; a.root = take_i32(r);
      return finished(r) ? op_PivotRoot(&a) : -EBADMSG;
    }
    case OP_MoveRoot: {
      struct MoveRoot a; a.root = take_i32(r);
      return finished(r) ? op_MoveRoot(&a) : -EBADMSG;
    }
    case OP_Chroot: {
      struct Chroot a; a.root = take_i32(r);
      return finished(r) ? op_Chroot(&a) : -EBADMSG;
    }
    case OP_Copyup: {
      struct Copyup a; a.slot = take_i32(r); a.at = take_i32(r); a.path = take_str(r);
      return finished(r) ? op_Copyup(&a) : -EBADMSG;
    }
    case OP_Fsmode: {
      struct Fsmode a; a.slot = take_i32(r); a.at = take_i32(r); a.path = take_str(r);
      return finished(r) ? op_Fsmode(&a) : -EBADMSG;
    }
    case OP_Umount: {
      struct Umount a; a.at = take_i32(r); a.path = take_str(r); a.flags = take_u32(r);
      return finished(r) ? op_Umount(&a) : -EBADMSG;
    }
    case OP_Setxattr: {
      struct Setxattr a; a.at = take_i32(r); a.path = take_str(r); a.name = take_str(r); a.value = take_bytes(r);
      return finished(r) ? op_Setxattr(&a) : -EBADMSG;
    }
    case OP_Pty: {
      struct Pty a; a.master = take_i32(r); a.slave = take_i32(r); a.at = take_i32(r); a.path = take_str(r); a.rows = take_u32(r); a.columns = take_u32(r); a.uid = take_u32(r);
      return finished(r) ? op_Pty(&a) : -EBADMSG;
    }
    case OP_Ctty: {
      struct Ctty a; a.slot = take_i32(r);
      return finished(r) ? op_Ctty(&a) : -EBADMSG;
    }
    case OP_SetIds: {
      struct SetIds a; a.uid = take_u32(r); a.gid = take_u32(r);
      return finished(r) ? op_SetIds(&a) : -EBADMSG;
    }
    case OP_Groups: {
      struct Groups a; a.gids = take_words(r);
      return finished(r) ? op_Groups(&a) : -EBADMSG;
    }
    case OP_BoundingSet: {
      struct BoundingSet a; a.keep = take_u64(r);
      return finished(r) ? op_BoundingSet(&a) : -EBADMSG;
    }
    case OP_Capset: {
      struct Capset a; a.permitted = take_u64(r); a.effective = take_u64(r); a.inheritable = take_u64(r);
      return finished(r) ? op_Capset(&a) : -EBADMSG;
    }
    case OP_Ambient: {
      struct Ambient a; a.raise_ = take_u64(r);
      return finished(r) ? op_Ambient(&a) : -EBADMSG;
    }
    case OP_Prctl: {
      struct Prctl a; a.option = take_i32(r); a.arg2 = take_u64(r); a.arg3 = take_u64(r); a.arg4 = take_u64(r); a.arg5 = take_u64(r);
      return finished(r) ? op_Prctl(&a) : -EBADMSG;
    }
    case OP_Rlimit: {
      struct Rlimit a; a.resource = take_u32(r); a.soft = take_u64(r); a.hard = take_u64(r);
      return finished(r) ? op_Rlimit(&a) : -EBADMSG;
    }
    case OP_Seccomp: {
      struct Seccomp a; a.flags = take_u32(r); a.listener = take_i32(r); a.program = take_bytes(r);
      return finished(r) ? op_Seccomp(&a) : -EBADMSG;
    }
    case OP_Scheduler: {
      struct Scheduler a; a.policy = take_u32(r); a.flags = take_u64(r); a.nice = take_i32(r); a.priority = take_u32(r); a.runtime = take_u64(r); a.deadline = take_u64(r); a.period = take_u64(r);
      return finished(r) ? op_Scheduler(&a) : -EBADMSG;
    }
    case OP_IoPriority: {
      struct IoPriority a; a.value = take_u32(r);
      return finished(r) ? op_IoPriority(&a) : -EBADMSG;
    }
    case OP_Affinity: {
      struct Affinity a; a.cpus = take_bytes(r);
      return finished(r) ? op_Affinity(&a) : -EBADMSG;
    }
    case OP_Personality: {
      struct Personality a; a.value = take_u64(r);
      return finished(r) ? op_Personality(&a) : -EBADMSG;
    }
    case OP_MemoryPolicy: {
      struct MemoryPolicy a; a.mode = take_u32(r); a.nodes = take_bytes(r); a.bits = take_u64(r);
      return finished(r) ? op_MemoryPolicy(&a) : -EBADMSG;
    }
    case OP_Sync: {
      struct Sync a; a.name = take_str(r); a.fds = take_words(r);
      return finished(r) ? op_Sync(&a) : -EBADMSG;
    }
    case OP_AwaitStart: {
      struct AwaitStart a; a.slot = take_i32(r);
      return finished(r) ? op_AwaitStart(&a) : -EBADMSG;
    }
    case OP_Hook: {
      struct Hook a; a.path = take_str(r); a.args = take_strs(r); a.env = take_strs(r); a.timeout_ms = take_u32(r); a.stdin = take_bytes(r);
      return finished(r) ? op_Hook(&a) : -EBADMSG;
    }
    case OP_FindExec: {
      struct FindExec a; a.candidates = take_strs(r);
      return finished(r) ? op_FindExec(&a) : -EBADMSG;
    }
    case OP_Execve: {
      struct Execve a; a.candidates = take_strs(r); a.argv = take_strs(r); a.env = take_strs(r);
      return finished(r) ? op_Execve(&a) : -EBADMSG;
    }
    case OP_Exit: {
      struct Exit a; a.code = take_u32(r);
      return finished(r) ? op_Exit(&a) : -EBADMSG;
    }
    default: return -ENOSYS;
  }
}

#endif
