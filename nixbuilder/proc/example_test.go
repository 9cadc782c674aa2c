package proc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

func ExampleRunner_Run() {
	runner, warnings := proc.New()
	for _, warning := range warnings {
		log.Print(warning)
	}
	output, err := runner.Run(context.Background(), proc.Command{
		Program: "sh",
		Args:    []string{"-c", "echo $WHO; exit 3"},
		Env:     []string{"WHO=nobody"},
		Confine: &proc.Confinement{Memory: 1 << 30, CPU: time.Second},
	})
	fmt.Printf("%s", output.Stdout)
	var failure *proc.Error
	if errors.As(err, &failure) {
		fmt.Println(failure.Exit)
	}
	// Output:
	// nobody
	// 3
}

func ExampleRedact() {
	fmt.Println(proc.Redact("fetching https://user:secret@git.example.org/set: refused"))
	// Output: fetching https://xxxxx@git.example.org/set: refused
}
