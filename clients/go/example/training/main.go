// Watches a training to its end; Ctrl-C leaves it alone:
//
//	training TRAINING_ID
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc/status"
	"inferd"
	"inferd/inferdv1"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("give the id of a training; inferd trainings tells them")
	}
	client, err := inferd.Connect(inferd.Options{}) // to $INFERD_ADDRESS, or to the kernel of this user or host
	if err != nil {
		log.Fatal(err)
	}
	trainings := inferdv1.NewTrainingServiceClient(client.Conn())
	told, err := trainings.WatchTraining(context.Background(), &inferdv1.WatchTrainingRequest{TrainingId: os.Args[1]})
	for err == nil {
		var response *inferdv1.WatchTrainingResponse
		if response, err = told.Recv(); err != nil {
			break
		}
		training := response.Training
		fmt.Printf("%s step %d of %d, loss %.3f\n", training.State, training.Step, training.Steps, training.Loss)
		if training.Error != nil {
			err = inferd.FromStatus(status.FromProto(training.Error))
		} else if training.Result != nil {
			fmt.Println(training.Result.Kind, training.Result.Model, "version", training.Result.Version)
		}
	}
	if err != io.EOF {
		log.Fatalf("%s: %v", inferd.ReasonOf(err), err)
	}
}
