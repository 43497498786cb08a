package inferd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const othersWrite = 0o022

// sockets are where kernels are looked for that no address names: those of this user, then that of the host. A folder
// that somebody else could write to is passed over, so that nobody is given a call, or a credential, who is not the user
// or the administrator of this host.
func sockets() []string {
	uid := os.Geteuid()
	usual := fmt.Sprintf("/run/user/%d", uid)
	if uid == 0 {
		usual = "/run"
	}
	var folders []string
	for _, folder := range []string{os.Getenv("XDG_RUNTIME_DIR"), usual} {
		if filepath.IsAbs(folder) && isOwn(folder, uid) {
			folders = append(folders, filepath.Join(folder, "inferd"))
		}
	}
	folders = append(folders, fmt.Sprintf("/tmp/inferd-%d", uid), "/run/inferd")
	found := make([]string, len(folders))
	for i, folder := range folders {
		found[i] = filepath.Join(folder, "inferd.sock")
	}
	return found
}

// findAddress is the address of the first usual place where a kernel listens; where none does, of the first one of all.
func findAddress() string {
	places := sockets()
	for _, path := range places {
		if listens(path) {
			return "unix:" + path
		}
	}
	return "unix:" + places[0]
}

func listens(path string) bool {
	if !isSafe(filepath.Dir(path)) {
		return false
	}
	asked, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return errors.Is(err, syscall.EAGAIN) // its backlog is full
	}
	asked.Close()
	return true
}

func isSafe(folder string) bool {
	found, err := os.Lstat(folder)
	if err != nil || !found.IsDir() || found.Mode().Perm()&othersWrite != 0 {
		return false
	}
	owner := ownerOf(found)
	byRoot := filepath.Dir(folder) == "/run" && isOwn("/run", 0) // who has a folder there was given it
	return owner == 0 || owner == os.Geteuid() || byRoot
}

func isOwn(folder string, uid int) bool {
	found, err := os.Stat(folder)
	return err == nil && found.IsDir() && ownerOf(found) == uid && found.Mode().Perm()&othersWrite == 0
}

func ownerOf(found os.FileInfo) int {
	if known, ok := found.Sys().(*syscall.Stat_t); ok {
		return int(known.Uid)
	}
	return -1
}
