// Makes a task that outlives this program, its connection and the kernel, and prints its text as it comes:
//
//	durable smollm2 "Name the capital of France." [REQUEST_ID]
//
// Run it again with the same REQUEST_ID and it is the same task, told from its beginning. Ctrl-C cancels it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"google.golang.org/protobuf/proto"
	"inferd"
	"inferd/inferdv1"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "give a model and what to say to it")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], append(os.Args, "")[3]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", inferd.ReasonOf(err), err)
		os.Exit(1)
	}
}

func run(model, prompt, requestID string) error {
	client, err := inferd.Connect(inferd.Options{}) // to $INFERD_ADDRESS, or to the kernel of this user or host
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	spec := inferd.Chat(model, prompt)
	spec.Sampling = &inferdv1.SamplingParams{MaxTokens: proto.Uint32(64), Temperature: proto.Float32(0)}
	task, err := client.CreateTask(ctx, spec, inferd.RunOptions{RequestID: requestID})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "task", task.TaskId)
	events := client.Watch(ctx, task.TaskId, 0, inferd.RunOptions{})
	for events.Next() {
		fmt.Print(events.Text())
		if finished := events.Event().GetFinished(); finished != nil {
			fmt.Fprintln(os.Stderr, "\n", finished.GetUsage().GetOutputTokens(), "tokens")
			return inferd.FailureOf(finished)
		}
	}
	if errors.Is(events.Err(), context.Canceled) {
		_, err = client.CancelTask(context.Background(), task.TaskId)
		return err
	}
	return events.Err()
}
