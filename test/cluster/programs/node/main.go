// A machine of a test cluster: a process tree in network, mount, PID, UTS and IPC namespaces of its own. Its root is an
// overlay over the root of the machine below, so it has the same programs but files of its own. When the first process
// is killed, everything in it ends and every mount goes; started again with the same state it is a rebooted machine.
//
//	node start STATE   starts it, prints the process id of its first process
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: node start STATE"))
	}
	switch os.Args[1] {
	case "start":
		fail(start(os.Args[2]))
	case "init":
		fail(boot(os.Args[2]))
	default:
		fail(fmt.Errorf("no command %q", os.Args[1]))
	}
}

func start(state string) error {
	if _, err := readSpec(filepath.Join(state, "spec.json")); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(state, "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	command := exec.Command(self)
	command.Args = []string{programName, "init", state} // by this the harness finds it again
	command.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	command.Dir = "/"
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := command.Start(); err != nil {
		return err
	}
	fmt.Println(command.Process.Pid)
	return nil
}

func fail(err error) {
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "node:", err)
	os.Exit(1)
}

const programName = "meltemi-test-node"
